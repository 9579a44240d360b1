"""Golomb-Rice coded gaps between the symbols that are not the most common one.

R. F. Rice, Some practical universal noiseless coding techniques, JPL 79-22 (1979): a gap g is
``g >> r`` zeros, a one, and the r low bits of g.

Layout: the common symbol; r in 5 bits; m, the number of other symbols, in gamma code; after padding
to a byte their m gaps, padded to a byte with zeros. Symbols of more than one bit follow as a stream
of their own, see `smallest`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams.bits import BitReader, BitWriter, Symbols

WIDEST = 31
"""The largest r."""


def encode(symbols: Symbols, common: int, bits: int) -> tuple[bytes, Symbols]:
    """Return the code of the gaps, and the symbols other than ``common``, at least one."""
    at = np.flatnonzero(symbols != common)
    rice, _ = best(at)
    header = BitWriter()
    header.bits(common, bits)
    header.bits(rice, 5)
    header.gamma(at.size)
    return header.tobytes() + np.packbits(write(at, rice)).tobytes(), symbols[at]


def best(at: NDArray[np.intp]) -> tuple[int, int]:
    """Return the r that needs the fewest bits for ascending positions, and these bits."""
    gaps = _gaps(at)
    total = [int((gaps >> r).sum()) + (1 + r) * gaps.size for r in range(WIDEST + 1)]
    rice = total.index(min(total))
    return rice, total[rice]


def write(at: NDArray[np.intp], rice: int) -> NDArray[np.uint8]:
    """Return the bits of the gaps between ascending positions, one an item."""
    gaps = _gaps(at)
    ends = np.cumsum((gaps >> rice) + 1 + rice)
    coded = np.zeros(ends[-1] if ends.size else 0, np.uint8)
    coded[ends - rice - 1] = 1
    for j in range(rice):
        coded[ends - 1 - j] = gaps >> j & 1
    return coded


def _gaps(at: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.diff(at, prepend=-1) - 1


def decode(data: bytes, count: int, bits: int) -> tuple[int, NDArray[np.bool_], bytes]:
    """Return the common symbol, a mask of the other ones of ``count``, and the bytes after them.

    Raises
    ------
    WireError
        Not what `encode` writes for this number of symbols.
    """
    reader = BitReader(data)
    common, rice = reader.bits(bits), reader.bits(5)
    others = reader.gamma(count.bit_length())
    coded = reader.rest()
    tail = BitReader(coded)
    mask = read(tail, rice, others, count)
    return common, mask, tail.rest()


def read(reader: BitReader, rice: int, others: int, count: int) -> NDArray[np.bool_]:
    """Return a mask of the ``others`` positions below ``count`` whose gaps come next.

    Raises
    ------
    WireError
        The data end before, or a position is not below ``count``.
    """
    mask = np.zeros(count, np.uint8)
    end = run(_decode, np.frombuffer(reader.data, np.uint8), reader.at, rice, others, mask)
    if end < 0:
        raise WireError("golomb: the gaps are longer than the stream")
    reader.at = end
    return mask.view(np.bool_)


@jit
def _decode(data, at, rice, others, mask):
    end, position, count = 8 * len(data), -1, len(mask)
    for _ in range(others):
        high = 0
        while True:
            if at >= end or high > count >> rice:
                return -1
            bit = data[at >> 3] >> (7 - (at & 7)) & 1
            at += 1
            if bit:
                break
            high += 1
        if at + rice > end:
            return -1
        low = 0
        for _ in range(rice):
            low = low << 1 | (data[at >> 3] >> (7 - (at & 7)) & 1)
            at += 1
        position += 1 + (high << rice | low)
        if position >= count:
            return -1
        mask[position] = 1
    return at
