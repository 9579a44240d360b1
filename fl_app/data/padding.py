"""Sequences of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = -100  # label that no loss is taken on


def pad(sequences: Sequence[list[int]], value: int, left: bool = False) -> Tensor:
    """[sequences, tokens], filled with ``value`` on the right or on the left."""
    length = max(map(len, sequences))
    return torch.tensor(
        [
            [value] * (length - len(s)) + s if left else s + [value] * (length - len(s))
            for s in sequences
        ]
    )
