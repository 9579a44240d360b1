"""Eight interleaved rANS coders that share one table and one stream of words: for long streams.

F. Giesen, Interleaved entropy coders, arXiv 1402.3392. Symbol i belongs to the coder i mod 8. While
one waits for its table, the others go on, and no step depends on a branch: some 0.4 billion symbols
a second and thread, four times as many as `rans`, for 32 bytes more. n symbols of frequencies f
take ``sum log2(2**12 / f)`` bits and 32 bytes, after their table of precision 12.

Layout: the table (see `frequencies`), the eight states, uint32, then the words, uint16, in the
order in which they are read; little-endian. Reading undoes writing step by step, down to the start:
no other bytes are read as the same symbols.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams import frequencies
from fl_app.codecs.streams.bits import BitReader, BitWriter, Symbols
from fl_app.codecs.streams.frequencies import Counts, Table

CODERS = 8
PRECISION = 12
"""Of the table: symbol, start and frequency of a slot then fit 32 bits."""

_LOW = 1 << 15  # between two symbols states are in [2**15, 2**31); the first is 2**15
_SHIFT = 44


def best(counts: Counts) -> Table:
    """Return the table for symbols of these counts."""
    return Table(PRECISION, frequencies.apportion(counts, 1 << PRECISION))


def size(table: Table, counts: Counts) -> int:
    """Return the bytes that `encode` takes for symbols of these counts, about."""
    return frequencies.size(table, counts) + 4 * CODERS


def encode(symbols: Symbols, table: Table) -> bytes:
    """Return table and symbols."""
    writer = BitWriter()
    frequencies.write(table, writer)
    freq = np.array(table.frequencies)
    # x // f is x * ceil(2**44 / f) >> 44 for all x < 2**31 and f < 2**12.
    inverse = -(-(1 << _SHIFT) // np.maximum(freq, 1))
    states = np.full(CODERS, _LOW, np.uint32)
    words = np.empty(symbols.size + 1, np.uint16)  # each symbol writes one word at most
    at = run(_encode, symbols, freq, table.starts, inverse, states, words)
    coded = words[at:].astype("<u2", copy=False).tobytes()
    return writer.tobytes() + states.astype("<u4", copy=False).tobytes() + coded


def decode(data: bytes, count: int, alphabet: int) -> Symbols:
    """Return the ``count`` symbols, each below ``alphabet``.

    Raises
    ------
    WireError
        Not what `encode` writes for this number of symbols.
    """
    reader = BitReader(data)
    table = frequencies.read(reader, alphabet)
    coded = reader.rest()
    if table.precision != PRECISION or len(coded) < 4 * CODERS or len(coded) % 2:
        raise WireError("interleaved: a table of another precision, or no whole states and words")
    states = np.frombuffer(coded, "<u4", CODERS).astype(np.uint32)
    if states.min() < _LOW or states.max() >> 31:
        raise WireError("interleaved: a state beyond its range")
    words = np.frombuffer(coded, "<u2", offset=4 * CODERS)
    # A word is looked at before it is known whether it is needed, and the end is seen late.
    words = np.append(words, np.zeros(2 * CODERS, np.uint16)).astype(np.uint16, copy=False)
    out = np.empty(count, np.uint8)
    at = run(_decode, words, words.size - 2 * CODERS, _slots(table), states, out)
    if at != words.size - 2 * CODERS or (states != _LOW).any():
        raise WireError("interleaved: the words do not end with the last symbol")
    return out


def _slots(table: Table) -> NDArray[np.uint32]:
    """Return each slot's frequency less 1 (12 bits), place among its symbol's (12), and symbol."""
    freq = np.array(table.frequencies)
    symbol = np.repeat(np.arange(freq.size), freq)
    place = np.arange(1 << PRECISION) - table.starts[symbol]
    return ((freq[symbol] - 1) << 20 | place << 8 | symbol).astype(np.uint32)


@jit
def _encode(symbols, freq, start, inverse, states, words):
    at = len(words)
    for i in range(len(symbols) - 1, -1, -1):
        s = symbols[i]
        f = freq[s]
        x = int(states[i % CODERS])
        full = int(x >> (31 - PRECISION) >= f)
        words[at - 1] = x & 0xFFFF  # overwritten where it is not full
        at -= full
        x >>= 16 * full
        states[i % CODERS] = x + start[s] + (x * inverse[s] >> _SHIFT) * ((1 << PRECISION) - f)
    return at


@jit
def _decode(words, end, slots, states, out):
    at, whole = 0, len(out) // CODERS * CODERS
    for start in range(0, whole, CODERS):
        if at > end:
            return -1
        for i in range(CODERS):
            out[start + i], states[i], at = _next(int(states[i]), words, at, slots)
    for i in range(len(out) - whole):
        out[whole + i], states[i], at = _next(int(states[i]), words, at, slots)
    return at


@jit
def _next(x, words, at, slots):
    """Return a symbol, the state after it, and the place of the next word."""
    slot = int(slots[x & ((1 << PRECISION) - 1)])
    x = ((slot >> 20) + 1) * (x >> PRECISION) + ((slot >> 8) & 0xFFF)
    few = int(x < _LOW)
    return slot & 0xFF, x << 16 * few | (int(words[at]) & -few), at + few
