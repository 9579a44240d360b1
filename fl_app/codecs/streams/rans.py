"""Range asymmetric numeral systems: every symbol takes its information content.

J. Duda, Asymmetric numeral systems, arXiv 1311.2540; with bytes in and out as in F. Giesen's
rans_byte. The reader does not refill its state after the last byte, so the writer may start below
the lower bound of states: the start takes only the 16 bits by which the end is checked. n symbols
of frequencies f take ``16 + sum log2(2**precision / f)`` bits, rounded up to a byte, after their
table.

Layout: the table (see `frequencies`), then the bytes in the order in which they are read, the
first not zero. With a given table no other bytes are read as the same symbols: reading undoes
writing step by step, down to the start.
"""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams import frequencies
from fl_app.codecs.streams.bits import BitReader, BitWriter, Symbols
from fl_app.codecs.streams.frequencies import Counts, Table

_LOW = 1 << 23  # states are in [2**23, 2**31), and below until the first byte is written
_START = 1 << 16


def size(table: Table, counts: Counts) -> int:
    """Return the bytes that `encode` takes for symbols of these counts, about."""
    return frequencies.size(table, counts) + 2


def encode(symbols: Symbols, table: Table) -> bytes | None:
    """Return table and symbols; None where these take more bytes than there are symbols."""
    writer = BitWriter()
    frequencies.write(table, writer)
    out = np.empty(symbols.size, np.uint8)
    freq = np.array(table.frequencies)
    at = run(_encode, symbols, freq, table.starts, table.precision, out)
    return None if at < 0 else writer.tobytes() + out[at:].tobytes()


def decode(data: bytes, count: int, alphabet: int) -> Symbols:
    """Return the ``count`` symbols, each below ``alphabet``.

    Raises
    ------
    WireError
        Not what `encode` writes for this number of symbols.
    """
    reader = BitReader(data)
    table = frequencies.read(reader, alphabet)
    coded = np.frombuffer(reader.rest(), np.uint8)
    if coded.size and not coded[0]:
        raise WireError("rans: the state starts with a zero byte")
    freq = np.array(table.frequencies)
    symbol = np.repeat(np.arange(freq.size, dtype=np.uint8), freq)
    out = np.empty(count, np.uint8)
    if not run(_decode, coded, symbol, freq, table.starts, table.precision, out):
        raise WireError("rans: the bytes do not end with the last symbol")
    return out


@jit
def _encode(symbols, freq, start, precision, out):
    state, at = _START, len(out)
    for i in range(len(symbols) - 1, -1, -1):
        s = symbols[i]
        f = freq[s]
        limit = f << (31 - precision)
        while state >= limit:
            if at == 0:
                return -1
            at -= 1
            out[at] = state & 255
            state >>= 8
        quotient = state // f
        state += (quotient << precision) - quotient * f + start[s]
    while state > 0:
        if at == 0:
            return -1
        at -= 1
        out[at] = state & 255
        state >>= 8
    return at


@jit
def _decode(data, symbol, freq, start, precision, out):
    state, at, end = 0, 0, len(data)
    mask = (1 << precision) - 1
    for i in range(len(out)):
        while state < _LOW and at < end:
            state = state << 8 | data[at]
            at += 1
        slot = state & mask
        s = symbol[slot]
        out[i] = s
        state = freq[s] * (state >> precision) + slot - start[s]
    return state == _START and at == end
