"""Integers of any number of bits, packed most significant bit first without gaps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError

Words = NDArray[np.unsignedinteger[Any]]

MOST = 56
"""The most bits of a word: with up to 7 bits before it in its first byte, it spans 8 bytes."""

CHUNK = 1 << 11  # words at a time; a multiple of 8, which are a whole number of bytes
_U8 = np.uint64(0xFF)


def dtype(bits: int) -> type[np.uint32] | type[np.uint64]:
    """Return the type for words of this number of bits: uint32, or uint64 beyond 32."""
    return np.uint32 if bits <= 32 else np.uint64


def nbytes(bits: int, count: int) -> int:
    """Return the number of bytes of ``count`` words."""
    return -(-bits * count // 8)


def pack(words: Words, bits: int) -> bytes:
    """Return words below 2**bits as bytes; the last byte is filled up with zero bits."""
    packed = bytearray()
    for i in range(0, words.size, CHUNK):
        part = words[i : i + CHUNK]
        eights = np.zeros((-(-part.size // 8), 8), np.uint64)
        eights.reshape(-1)[: part.size] = part
        rows = np.zeros((len(eights), bits), np.uint8)
        for word, at, spare, span in _lanes(bits):
            shifted = eights[:, word] << np.uint64(spare)
            for byte in range(span):
                rows[:, at + byte] |= (shifted >> np.uint64(8 * (span - 1 - byte)) & _U8).astype(
                    np.uint8
                )
        packed += rows.tobytes()[: nbytes(bits, part.size)]
    return bytes(packed)


def unpack(packed: bytes, bits: int, count: int) -> Words:
    """Return the words in the bytes of `pack`.

    Raises
    ------
    WireError
        Not the bytes of ``count`` words, or padded with something other than zeros.
    """
    words = np.empty(count, dtype(bits))
    for i, part in enumerate(chunks(packed, bits, count)):
        words[i * CHUNK : (i + 1) * CHUNK] = part
    return words


def chunks(packed: bytes, bits: int, count: int) -> Iterator[NDArray[np.uint64]]:
    """Yield the words that `unpack` returns, `CHUNK` at a time.

    Raises
    ------
    WireError
        See `unpack`.
    """
    if len(packed) != nbytes(bits, count):
        raise WireError(f"{len(packed)} bytes, not {count} words of {bits} bits")
    if count and packed[-1] & (1 << -bits * count % 8) - 1:
        raise WireError("the words are padded with something other than zeros")
    raw = np.frombuffer(packed, np.uint8)
    for i in range(0, count, CHUNK):
        size = min(CHUNK, count - i)
        rows = np.zeros((-(-size // 8), bits), np.uint8)
        start = i * bits // 8
        rows.reshape(-1)[: nbytes(bits, size)] = raw[start : start + nbytes(bits, size)]
        eights = np.empty((len(rows), 8), np.uint64)
        for word, at, spare, span in _lanes(bits):
            value = np.zeros(len(rows), np.uint64)
            for byte in range(span):
                value = value << np.uint64(8) | rows[:, at + byte]
            eights[:, word] = value >> np.uint64(spare) & np.uint64(2**bits - 1)
        yield eights.reshape(-1)[:size]


def _lanes(bits: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the place of each of 8 words: its number, its first byte, bits after it, its bytes."""
    for word in range(8):
        first, end = word * bits // 8, (word + 1) * bits
        yield word, first, -end % 8, -(-end // 8) - first
