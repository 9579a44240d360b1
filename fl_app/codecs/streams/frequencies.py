"""Frequency tables: integers that sum to a power of two, in proportion to counts, in few bits.

All choices are made in integers, so that every machine makes the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams.bits import BitReader, BitWriter

PRECISION = 14
"""Frequencies sum to at most 2**PRECISION."""

ONE = 1 << 16
LOG2 = [0] + [round(ONE * math.log2(f)) for f in range(1, (1 << PRECISION) + 1)]
"""Base-2 logarithms in units of 1 / `ONE`; none is close to a half, so all machines round alike."""
_LOG2 = np.array(LOG2, np.int64)
MOST_BITS = 31  # of a count, for which every product stays within 64 bits
Counts = NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class Table:
    """Frequencies of the symbols from 0 on, at least two of them not zero.

    Attributes
    ----------
    precision : int
        The frequencies sum to ``2**precision``.
    frequencies : tuple of int
        One per symbol up to the last that occurs.
    """

    precision: int
    frequencies: tuple[int, ...]

    @property
    def starts(self) -> NDArray[np.int64]:
        """The sum of the frequencies below each symbol."""
        freq = np.array(self.frequencies)
        return np.cumsum(freq) - freq

    def cost(self, counts: Counts) -> int:
        """Return the bits that symbols of these counts take, times `ONE`."""
        freq = np.array(self.frequencies)
        counts = np.asarray(counts)[: freq.size]
        return int(np.sum(counts * np.where(counts, self.precision * ONE - _LOG2[freq], 0)))


def best(counts: Counts, most: int = PRECISION) -> Table:
    """Return the table for which the table and symbols of these counts are shortest together.

    Parameters
    ----------
    most : int
        The largest precision; at least that of as many symbols as there are.
    """
    scaled = _scaled(counts)
    freq = np.empty_like(scaled)
    precision = int(run(_best, scaled, most, _LOG2, np.empty_like(scaled), freq))
    return Table(precision, tuple(freq.tolist()))


def size(table: Table, counts: Counts) -> int:
    """Return the bytes of the table and of symbols of these counts, rounded up."""
    bits = int(run(_table_bits, np.array(table.frequencies), table.precision))
    return -(-bits // 8) + -(-table.cost(counts) // (8 * ONE))


def apportion(counts: Counts, total: int) -> tuple[int, ...]:
    """Round counts to frequencies of sum ``total``, at least 1 where a symbol occurs.

    Webster's method: among the roundings with that sum, (almost) the one of least
    Kullback-Leibler divergence, as c / (f + 1/2) is the gain of one more to first order.
    """
    scaled = _scaled(counts)
    freq = np.empty_like(scaled)
    run(_apportion, scaled, total, freq)
    return tuple(freq.tolist())


def _scaled(counts: Counts) -> NDArray[np.int64]:
    """Return the counts up to the last that is not zero, halved until they are small enough."""
    found = np.asarray(counts, np.int64)
    shift = max(0, int(found.max()).bit_length() - MOST_BITS)
    return -(-found[: np.flatnonzero(found)[-1] + 1] >> shift)


@jit
def _best(counts, most, log2, freq, out):
    n, present = 0, 0
    for c in counts:
        n += c
        present += c > 0
    low = 0
    while 1 << low < present:
        low += 1
    shortest, found = -1, low
    for precision in range(low, most + 1):
        _apportion(counts, 1 << precision, freq)
        cost = n * precision * ONE
        for s in range(len(counts)):
            if counts[s]:
                cost -= counts[s] * log2[freq[s]]
        length = (_table_bits(freq, precision) + 7) // 8 + (cost + 8 * ONE - 1) // (8 * ONE)
        if shortest < 0 or length < shortest:
            shortest, found = length, precision
            for s in range(len(counts)):
                out[s] = freq[s]
    return found


@jit
def _apportion(counts, total, freq):
    n = 0
    for c in counts:
        n += c
    off = total
    for s in range(len(counts)):
        c = counts[s]
        freq[s] = max(1, (2 * c * total + n) // (2 * n)) if c else 0
        off -= freq[s]
    while off > 0:  # one more, where a symbol has most to gain
        at, most = -1, -1
        for s in range(len(counts)):
            if counts[s]:
                gain = -(-(counts[s] << 32) // (2 * freq[s] + 1))
                if gain > most:
                    at, most = s, gain
        freq[at] += 1
        off -= 1
    while off < 0:  # one less, where a symbol has least to lose
        at, least = -1, -1
        for s in range(len(counts)):
            if freq[s] > 1:
                loss = (counts[s] << 32) // (2 * freq[s] - 1)
                if at < 0 or loss < least:
                    at, least = s, loss
        freq[at] -= 1
        off += 1


@jit
def _width(value):
    width = 0
    while value:
        value >>= 1
        width += 1
    return width


@jit
def _table_bits(freq, precision):
    """Return the bits that `write` takes."""
    bits, width, s = 4, precision, 0
    while s < len(freq):
        f = freq[s]
        change = _width(f) - width
        bits += 2 * _width(2 * change if change > 0 else 1 - 2 * change) - 1
        width += change
        if f:
            bits += width - 1
            s += 1
        else:
            zeros = 0
            while freq[s] == 0:  # the last one is not
                zeros += 1
                s += 1
            bits += 2 * _width(zeros) - 1
    return bits


def write(table: Table, to: BitWriter) -> None:
    """Write a table: its precision, then the frequencies up to the last.

    A frequency is written as the change of its width in bits since the one before (in gamma code,
    signs interleaved) and the bits below its leading one. A width of 0 is followed by the number
    of zeros in a row, in gamma code. The reader knows the last one by the sum.
    """
    to.bits(table.precision - 1, 4)
    width, s = table.precision, 0
    while s < len(table.frequencies):
        f = table.frequencies[s]
        change = f.bit_length() - width
        to.gamma(2 * change if change > 0 else 1 - 2 * change)
        width = f.bit_length()
        if f:
            to.bits(f - (1 << width - 1), width - 1)
            s += 1
        else:
            run = next(i for i, g in enumerate(table.frequencies[s:]) if g)
            to.gamma(run)
            s += run


def read(source: BitReader, alphabet: int) -> Table:
    """Return a table that `write` wrote.

    Raises
    ------
    WireError
        Not such a table for symbols below ``alphabet``.
    """
    precision = 1 + source.bits(4)
    if precision > PRECISION:
        raise WireError(f"frequencies of {precision} bits, at most {PRECISION} are possible")
    freq: list[int] = []
    left, width = 1 << precision, precision
    while left:
        code = source.gamma(6)
        was_zero = not width
        width += code // 2 if code % 2 == 0 else -(code // 2)
        if not 0 <= width <= precision or (was_zero and not width):
            raise WireError("a frequency of an impossible width")
        if width:
            freq.append(1 << width - 1 | source.bits(width - 1))
            left -= freq[-1]
        else:
            freq += [0] * source.gamma(8)
        if left < 0 or len(freq) > alphabet:
            raise WireError("frequencies beyond their sum or their number")
    if sum(f > 0 for f in freq) < 2:
        raise WireError("a table of a single symbol")
    return Table(precision, tuple(freq))
