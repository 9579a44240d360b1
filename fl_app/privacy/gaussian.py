"""Gaussian noise out of a key stream, in double precision."""

import math

import numpy as np
import torch
from torch import Tensor

from fl_app.privacy.keystream import KeyStream

CHUNK = 1 << 18  # values made at a time, which bounds the memory beside them


def normal(stream: KeyStream, count: int) -> np.ndarray:
    """Return the next values of mean 0 and deviation 1, float64 [count].

    Each is half the sum of four: whoever sees a value plus one of these cannot find which values
    floating-point numbers leave possible, as for a single one (Holohan & Braghin 2021,
    https://arxiv.org/abs/2107.10138, section 5.1).
    """
    made = np.empty(count)
    for start in range(0, count, CHUNK):
        part = made[start : start + CHUNK]
        part[:] = _pairs(stream, (len(part) + 1) // 2)[: len(part)]
    return made


def _pairs(stream: KeyStream, pairs: int) -> Tensor:
    """Return Box and Muller's pairs: four cosines are added up, and the sines of the same angles.

    The two of a pair are independent, so that the sums are.
    """
    radius, angle = torch.from_numpy(stream.uniform(8 * pairs)).view(2, 4, pairs)
    radius = (radius + 2.0**-53).log().mul(-2).sqrt()  # of (0, 1]: no logarithm of zero
    angle = angle * (2 * math.pi)
    return torch.cat([(radius * angle.cos()).sum(0), (radius * angle.sin()).sum(0)]).div(2)
