"""Signed levels as bytes: 0, -1, 1, -2, 2, ... are 0, 1, 2, 3, 4, ...; large ones escape.

A level whose number is 255 or more is the byte 255 and, beside the bytes, its number less 255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.uint8]
Escapes = NDArray[np.uint32]

ESCAPE = 255


def encode(levels: NDArray[np.int32]) -> tuple[Symbols, Escapes]:
    """Return one symbol per level, and what the escaped ones are beyond 255."""
    number = (levels << 1) ^ (levels >> 31)
    escapes = number[number >= ESCAPE] - ESCAPE
    return np.minimum(number, ESCAPE).astype(np.uint8), escapes.astype(np.uint32)


def decode(symbols: Symbols, escapes: Escapes) -> tuple[NDArray[np.float64], Escapes]:
    """Return the levels of the symbols, and the escapes that they do not use."""
    levels = _LEVELS[symbols]
    if escapes.size:
        at = np.flatnonzero(symbols == ESCAPE)
        levels[at] = _levels(escapes[: at.size].astype(np.int64) + ESCAPE)
        escapes = escapes[at.size :]
    return levels, escapes


def _levels(number: NDArray[np.int64]) -> NDArray[np.float64]:
    return ((number >> 1) ^ -(number & 1)).astype(np.float64)


_LEVELS = _levels(np.arange(256))
