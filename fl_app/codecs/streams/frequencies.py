"""Frequency tables: integers that sum to a power of two, in proportion to counts, in few bits.

All choices are made in integers, so that every machine makes the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fl_app.codecs.base import WireError
from fl_app.codecs.streams.bits import BitReader, BitWriter

PRECISION = 14
"""Frequencies sum to at most 2**PRECISION."""

ONE = 1 << 16
LOG2 = [0] + [round(ONE * math.log2(f)) for f in range(1, (1 << PRECISION) + 1)]
"""Base-2 logarithms in units of 1 / `ONE`; none is close to a half, so all machines round alike."""


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

    def cost(self, counts: Sequence[int]) -> int:
        """Return the bits that symbols of these counts take, times `ONE`."""
        scale = self.precision * ONE
        pairs = zip(counts, self.frequencies, strict=False)
        return sum(c * (scale - LOG2[f]) for c, f in pairs if c)


def best(counts: Sequence[int]) -> Table:
    """Return the table for which the table and symbols of these counts are shortest together."""
    present = sum(c > 0 for c in counts)
    choices = range((present - 1).bit_length(), PRECISION + 1)
    tables = [Table(k, apportion(counts, 1 << k)) for k in choices]
    return min(tables, key=lambda table: size(table, counts))


def size(table: Table, counts: Sequence[int]) -> int:
    """Return the bytes of the table and of symbols of these counts, rounded up."""
    writer = BitWriter()
    write(table, writer)
    return -(-writer.length // 8) + -(-table.cost(counts) // (8 * ONE))


def apportion(counts: Sequence[int], total: int) -> tuple[int, ...]:
    """Round counts to frequencies of sum ``total``, at least 1 where a symbol occurs.

    Webster's method: among the roundings with that sum, (almost) the one of least
    Kullback-Leibler divergence, as c / (f + 1/2) is the gain of one more to first order.
    """
    last = max(s for s, c in enumerate(counts) if c)
    counts, n = counts[: last + 1], sum(counts)
    freq = [max(1, (2 * c * total + n) // (2 * n)) if c else 0 for c in counts]
    off = total - sum(freq)
    if off > 0:
        heap = [(-(c << 32) // (2 * freq[s] + 1), s) for s, c in enumerate(counts) if c]
        heapq.heapify(heap)
        for _ in range(off):
            s = heap[0][1]
            freq[s] += 1
            heapq.heapreplace(heap, (-(counts[s] << 32) // (2 * freq[s] + 1), s))
    elif off < 0:
        heap = [((c << 32) // (2 * freq[s] - 1), s) for s, c in enumerate(counts) if freq[s] > 1]
        heapq.heapify(heap)
        for _ in range(-off):
            s = heap[0][1]
            freq[s] -= 1
            if freq[s] > 1:
                heapq.heapreplace(heap, ((counts[s] << 32) // (2 * freq[s] - 1), s))
            else:
                heapq.heappop(heap)
    return tuple(freq)


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
