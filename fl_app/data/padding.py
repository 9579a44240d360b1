"""Pad sequences of different lengths to one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = -100  # the label of tokens that are not part of the loss


def pad(sequences: Sequence[list[int]], value: int, left: bool = False) -> Tensor:
    """Return sequences as one tensor, filled with ``value`` on the right or on the left.

    Returns
    -------
    Tensor
        [sequences, length of the longest], int64.
    """
    length = max(map(len, sequences))
    return torch.tensor(
        [
            [value] * (length - len(s)) + s if left else s + [value] * (length - len(s))
            for s in sequences
        ]
    )
