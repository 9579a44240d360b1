"""The numbers of three clusters, in the cheapest of FedZip's three encodings::

    2 bits     the encoding
    2 bits     the cluster that is implied
    Huffman    n codes: 0 for the implied cluster, 10 and 11 for the lower and the upper other one
    addresses  of each other cluster: their number plus 1 in gamma code, and their positions in
               ceil(log2 n) bits each, ascending
    gaps       of each other cluster: their number plus 1 in gamma code; where there are any, r in
               5 bits and the gaps between positions in Rice code, see `golomb`

Of equally short ones the first is taken. Malekijoo et al., FedZip, arXiv 2102.01593, adds the
lengths of gaps in binary, which cannot be told apart again; here a prefix code is counted. Of three
symbols, canonical Huffman codes have 1, 2 and 2 bits, whatever their frequencies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams import golomb
from fl_app.codecs.streams.bits import BitReader, BitWriter, Symbols, unpack

HUFFMAN, ADDRESSES, GAPS = range(3)
CLUSTERS = 3
HEADER = 4
"""Bits before the encoding."""


def most(count: int) -> int:
    """Return the most bits that ``count`` numbers need: those of Huffman's code."""
    return HEADER + count + 2 * count // 3


def encode(symbols: Symbols) -> NDArray[np.uint8]:
    """Return the bits of one number or more in 0, 1, 2, one an item."""
    at = [np.flatnonzero(symbols == c) for c in range(CLUSTERS)]
    return write(symbols, at, *min(sizes(symbols.size, at).items(), key=lambda one: one[1])[0])


def sizes(count: int, at: list[NDArray[np.intp]]) -> dict[tuple[int, int], int]:
    """Return the bits of each encoding and implied cluster.

    Parameters
    ----------
    at : list
        The positions of each cluster.
    """
    numbers = [2 * (a.size + 1).bit_length() - 1 for a in at]
    addresses = [a.size * _width(count) for a in at]
    gaps = [golomb.best(a)[1] + 5 if a.size else 0 for a in at]
    of_others = {
        HUFFMAN: [a.size for a in at],
        ADDRESSES: [n + bits for n, bits in zip(numbers, addresses, strict=True)],
        GAPS: [n + bits for n, bits in zip(numbers, gaps, strict=True)],
    }
    return {
        (coder, implied): HEADER
        + (count if coder == HUFFMAN else 0)
        + sum(bits[c] for c in _others(implied))
        for coder, bits in of_others.items()
        for implied in range(CLUSTERS)
    }


def write(
    symbols: Symbols, at: list[NDArray[np.intp]], coder: int, implied: int
) -> NDArray[np.uint8]:
    """Return the bits in one of the encodings."""
    parts = [_bits(coder << 2 | implied, HEADER)]
    if coder == HUFFMAN:
        ends = np.cumsum(1 + (symbols != implied))
        codes = np.zeros(ends[-1], np.uint8)
        lower, upper = _others(implied)
        codes[ends[at[lower]] - 2] = 1
        codes[ends[at[upper]] - 2] = 1
        codes[ends[at[upper]] - 1] = 1
        return np.concatenate([*parts, codes])
    for c in _others(implied):
        number = at[c].size + 1
        parts.append(_bits(number, 2 * number.bit_length() - 1))
        if coder == ADDRESSES:
            shifts = np.arange(_width(symbols.size) - 1, -1, -1)
            parts.append((at[c][:, None] >> shifts & 1).astype(np.uint8).reshape(-1))
        elif at[c].size:
            rice, _ = golomb.best(at[c])
            parts += [_bits(rice, 5), golomb.write(at[c], rice)]
    return np.concatenate(parts)


def decode(reader: BitReader, count: int) -> Symbols:
    """Return the ``count`` numbers that come next.

    Raises
    ------
    WireError
        Not what `encode` writes for this number of symbols.
    """
    coder, implied = reader.bits(2), reader.bits(2)
    if coder > GAPS or implied >= CLUSTERS:
        raise WireError("clusters: an unknown encoding or cluster")
    symbols = np.full(count, implied, np.uint8)
    if coder == HUFFMAN:
        data = np.frombuffer(reader.data, np.uint8)
        reader.at = run(_huffman, data, reader.at, *_others(implied), symbols)
        if reader.at < 0:
            raise WireError("clusters: truncated")
        return symbols
    for c in _others(implied):
        number = reader.gamma((count + 1).bit_length()) - 1
        if coder == ADDRESSES:
            at: NDArray[np.intp] | NDArray[np.bool_] = _addresses(reader, number, count)
        else:
            at = golomb.read(reader, reader.bits(5), number, count) if number else _NONE
        if (symbols[at] != implied).any():
            raise WireError("clusters: a value in two of them")
        symbols[at] = c
    return symbols


_NONE = np.empty(0, np.intp)


def _addresses(reader: BitReader, number: int, count: int) -> NDArray[np.intp]:
    width = _width(count)
    end = reader.at + number * width
    if number > count or end > 8 * len(reader.data):
        raise WireError("clusters: more addresses than there are")
    coded = unpack(reader.data[reader.at // 8 : -(-end // 8)], 1)[reader.at % 8 :]
    words = coded[: number * width].reshape(number, width)
    at = np.zeros(number, np.intp)
    for j in range(width):
        at = at << 1 | words[:, j]
    if number and (at[-1] >= count or (np.diff(at) <= 0).any()):
        raise WireError("clusters: addresses that do not ascend")
    reader.at = end
    return at


def _others(implied: int) -> tuple[int, int]:
    lower, upper = (c for c in range(CLUSTERS) if c != implied)
    return lower, upper


def _width(count: int) -> int:
    return (count - 1).bit_length()


def _bits(value: int, width: int) -> NDArray[np.uint8]:
    writer = BitWriter()
    writer.bits(value, width)
    return unpack(writer.tobytes(), 1)[:width]


@jit
def _huffman(data, at, lower, upper, symbols):
    end = 8 * len(data)
    for i in range(len(symbols)):
        if at >= end:
            return -1
        if data[at >> 3] >> (7 - (at & 7)) & 1:
            at += 1
            if at >= end:
                return -1
            symbols[i] = upper if data[at >> 3] >> (7 - (at & 7)) & 1 else lower
        at += 1
    return at
