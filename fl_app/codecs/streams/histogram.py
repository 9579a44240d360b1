"""How often each symbol occurs."""

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.streams.bits import Symbols

_CHUNK = 1 << 16
_TABLES = 4  # so that equal symbols in a row do not wait for each other


def histogram(symbols: Symbols, bits: int) -> NDArray[np.int64]:
    """Return the counts of the ``2**bits`` symbols."""
    counts = np.zeros((_TABLES, 256), np.int64)
    _count(symbols, counts)
    return counts.sum(axis=0)[: 2**bits]


def count_numpy(symbols: Symbols, counts: NDArray[np.int64]) -> None:
    """Count in chunks: bincount makes a copy of 8 bytes a symbol."""
    for start in range(0, symbols.size, _CHUNK):
        counts[0] += np.bincount(symbols[start : start + _CHUNK], minlength=256)


@jit
def _count(symbols, counts):
    whole = symbols.size // _TABLES * _TABLES
    for start in range(0, whole, _TABLES):
        for table in range(_TABLES):
            counts[table, symbols[start + table]] += 1
    for i in range(whole, symbols.size):
        counts[0, symbols[i]] += 1


if numba is None:
    _count = count_numpy
