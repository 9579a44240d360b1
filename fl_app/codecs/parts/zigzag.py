"""Signed levels as bytes: 0, -1, 1, -2, 2, ... are numbered 0, 1, 2, 3, 4, ...

A level whose number is 255 or more is the byte 255 and an escape: its number less 255, in a list
beside the bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.uint8]
Escapes = NDArray[np.uint32]
Levels = NDArray[np.float64]

ESCAPE = 255


def encode(levels: NDArray[np.int32]) -> tuple[Symbols, Escapes]:
    """Return one symbol per level, and the escapes."""
    number = (levels << 1) ^ (levels >> 31)
    escapes = number[number >= ESCAPE] - ESCAPE
    return np.minimum(number, ESCAPE).astype(np.uint8), escapes.astype(np.uint32)


def escaped(escapes: Escapes) -> Levels:
    """Return the levels of these escapes."""
    return _levels(escapes.astype(np.int64) + ESCAPE)


def _levels(number: NDArray[np.int64]) -> Levels:
    return ((number >> 1) ^ -(number & 1)).astype(np.float64)


LEVELS = _levels(np.arange(256))
"""The level of each symbol other than `ESCAPE`."""
