"""A stream as one tag byte and the bytes of the coder that needs the fewest; at a tie the first::

    tag  coder     body
      0  raw       the symbols packed, see `bits`
      1  constant  the one symbol
      2  rans      see `rans`
      3  golomb    the gaps, see `golomb`; then the other symbols as a stream, if more than one
                   is possible
      4  planes    w = 2 or 4; then as streams the bytes 0, w, 2 w, ..., the bytes 1, w + 1, ...,
                   each but the last after its length (varint)
      5  zstd      the packed symbols, see `zstd`
      6  interleaved  see `interleaved`: in place of rans where that is long

A stream in a stream has one of the first three or the last. An empty one has no tag.

Huffman's code is not among them: on Gaussian, sparse and NF4 symbols it was at most 8 bytes shorter
than rans, and that for a thousand symbols.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.streams import frequencies, golomb, interleaved, rans, zstd
from fl_app.codecs.streams.bits import Symbols, pack, read_varint, unpack, varint
from fl_app.codecs.streams.histogram import histogram

RAW, CONSTANT, RANS, GOLOMB, PLANES, ZSTD, INTERLEAVED = range(7)
NESTED = (RAW, CONSTANT, RANS, INTERLEAVED)

T = TypeVar("T", bytes, Symbols)

_SPARSE = 8  # gaps are tried where at most one symbol in 8 is not the common one
_PROBE = 1 << 16  # bytes from the middle of a longer stream: planes and zstd must win there first
_LONG = 1 << 14  # bytes from which on rans is interleaved: its 32 bytes more are then 0.2 %


def encode(symbols: Symbols, bits: int, packed: bytes | None = None) -> bytes:
    """Return the stream of symbols of 1, 2, 4 or 8 bits: at most one byte more than packed.

    Parameters
    ----------
    packed : bytes, optional
        The symbols packed, where they are at hand.
    """
    return _encode(symbols, bits, packed, nested=False)


def decode(data: bytes, count: int, bits: int) -> Symbols:
    """Return the ``count`` symbols.

    Raises
    ------
    WireError
        Not a stream of this number of symbols.
    """
    return _decode(data, count, bits, nested=False)


def _encode(symbols: Symbols, bits: int, packed: bytes | None, nested: bool) -> bytes:
    if not symbols.size:
        return b""
    counts = histogram(symbols, bits)
    common = int(counts.argmax())
    most = int(counts[common])
    if most == symbols.size:
        return bytes((CONSTANT, common))
    raw = pack(symbols, bits) if packed is None else packed
    bodies = {RAW: raw}
    table = frequencies.best(counts)
    expected = rans.size(table, counts)
    if _LONG <= expected < len(raw):
        bodies[INTERLEAVED] = interleaved.encode(symbols, interleaved.best(counts))
    elif expected < len(raw) and (coded := rans.encode(symbols, table)):
        bodies[RANS] = coded
    if not nested:
        if _SPARSE * (symbols.size - most) <= symbols.size:
            gaps, others = golomb.encode(symbols, common, bits)
            bodies[GOLOMB] = gaps + (_encode(others, bits, None, nested=True) if bits > 1 else b"")
        if bits == 8:
            for width in (2, 4):
                planes = _planes(symbols, width, min(map(len, bodies.values())))
                if planes is not None:
                    bodies[PLANES] = planes
        if _zstd_may_win(raw, min(map(len, bodies.values()))):
            bodies[ZSTD] = zstd.encode(raw)
    tag = min(bodies, key=lambda tag: (len(bodies[tag]), tag))
    return bytes((tag,)) + bodies[tag]


def _size(counts: NDArray[np.int64]) -> int:
    """Return the bytes that rans takes for symbols of these counts, about; 1 for a constant."""
    if counts.max() == counts.sum():
        return 1
    return rans.size(frequencies.best(counts), counts)


def _planes(symbols: Symbols, width: int, limit: int) -> bytes | None:
    """Return the body; None where it would not be shorter than ``limit`` bytes."""
    if symbols.size % width or not _planes_may_win(symbols, width):
        return None
    planes = [np.ascontiguousarray(symbols[i::width]) for i in range(width)]
    if sum(min(_size(histogram(plane, 8)), plane.size) for plane in planes) >= limit:
        return None
    streams = [_encode(plane, 8, None, nested=True) for plane in planes]
    parts = [part for stream in streams[:-1] for part in (varint(len(stream)), stream)]
    body = b"".join((bytes((width,)), *parts, streams[-1]))
    return body if len(body) < limit else None


def _planes_may_win(symbols: Symbols, width: int) -> bool:
    if symbols.size <= _PROBE:
        return True
    probe = _middle(symbols)
    planes = sum(_size(histogram(np.ascontiguousarray(probe[i::width]), 8)) for i in range(width))
    return 256 * planes < 255 * _size(histogram(probe, 8))


def _zstd_may_win(raw: bytes, limit: int) -> bool:
    if len(raw) <= _PROBE:
        return True
    probe = zstd.encode(_middle(raw))
    return len(probe) * len(raw) < limit * _PROBE


def _middle(long: T) -> T:
    start = (len(long) - _PROBE) // 2
    return long[start : start + _PROBE]


def _decode(data: bytes, count: int, bits: int, nested: bool) -> Symbols:
    if not count:
        if data:
            raise WireError(f"{len(data)} bytes for an empty stream")
        return np.empty(0, np.uint8)
    if not data:
        raise WireError(f"no bytes for a stream of {count} symbols")
    tag, body = data[0], data[1:]
    if tag > INTERLEAVED or (nested and tag not in NESTED):
        raise WireError(f"unknown coder {tag}: the sender is newer than this side")
    if tag == RAW:
        return _unpack(body, count, bits)
    if tag == CONSTANT:
        if len(body) != 1 or body[0] >= 2**bits:
            raise WireError("constant: not one symbol")
        return np.full(count, body[0], np.uint8)
    if tag == RANS:
        return rans.decode(body, count, 2**bits)
    if tag == INTERLEAVED:
        return interleaved.decode(body, count, 2**bits)
    if tag == GOLOMB:
        common, mask, rest = golomb.decode(body, count, bits)
        return _fill(common, mask, rest, bits)
    if tag == PLANES:
        return _interleave(body, count, bits)
    return _unpack(zstd.decode(body, -(-count * bits // 8)), count, bits)


def _unpack(body: bytes, count: int, bits: int) -> Symbols:
    if len(body) != -(-count * bits // 8):
        raise WireError(f"{len(body)} bytes, not {count} symbols of {bits} bits")
    symbols = unpack(body, bits)
    if symbols[count:].any():
        raise WireError("symbols padded with something other than zeros")
    return symbols[:count]


def _fill(common: int, mask: np.ndarray, rest: bytes, bits: int) -> Symbols:
    if bits == 1:
        if rest:
            raise WireError(f"golomb: {len(rest)} bytes after the last gap")
        return mask.view(np.uint8) ^ np.uint8(common)
    others = _decode(rest, int(np.count_nonzero(mask)), bits, nested=True)
    if (others == common).any():
        raise WireError("golomb: the common symbol among the others")
    symbols = np.full(mask.size, common, np.uint8)
    symbols[mask] = others
    return symbols


def _interleave(body: bytes, count: int, bits: int) -> Symbols:
    width, rest = body[:1], body[1:]
    if bits != 8 or width not in (b"\2", b"\4") or count % width[0]:
        raise WireError("planes: their number is not 2 or 4, or does not divide the stream")
    symbols = np.empty((count // width[0], width[0]), np.uint8)
    for i in range(width[0]):
        length = len(rest)
        if i < width[0] - 1:
            length, rest = read_varint(rest, len(rest))
            if length > len(rest):
                raise WireError("planes: truncated")
        symbols[:, i] = _decode(rest[:length], count // width[0], 8, nested=True)
        rest = rest[length:]
    return symbols.reshape(-1)
