"""Bits and bytes: symbols packed most significant bit first, bit strings, varints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError

Symbols = NDArray[np.uint8]


def unpack(packed: bytes, bits: int) -> Symbols:
    """Return the ``8 len(packed) / bits`` symbols of 1, 2, 4 or 8 bits, with those of padding."""
    raw = np.frombuffer(packed, np.uint8)
    if bits == 8:
        return raw
    if bits == 1:
        return np.unpackbits(raw)
    per_byte = 8 // bits
    out = np.empty((raw.size, per_byte), np.uint8)
    for i in range(per_byte):
        np.right_shift(raw, np.uint8(8 - bits * (i + 1)), out=out[:, i])
    out &= np.uint8(2**bits - 1)
    return out.reshape(-1)


def pack(symbols: Symbols | NDArray[np.bool_], bits: int) -> bytes:
    """Return the symbols in bytes, the first in the highest bits, filled up with zero bits."""
    if bits == 8:
        return symbols.tobytes()
    if bits == 1:
        return np.packbits(symbols).tobytes()
    per_byte = 8 // bits
    out = np.zeros(-(-symbols.size // per_byte), np.uint8)
    for i in range(per_byte):
        part = symbols[i::per_byte]
        out[: part.size] |= part << np.uint8(8 - bits * (i + 1))
    return out.tobytes()


def varint(value: int) -> bytes:
    """Return a non-negative integer in groups of 7 bits, the lowest first (LEB128)."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, most: int) -> tuple[int, bytes]:
    """Return the integer at the start of ``data``, and the bytes after it.

    Raises
    ------
    WireError
        It is truncated, above ``most``, or in more bytes than `varint` writes.
    """
    value = 0
    for i, byte in enumerate(data[:10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if value > most:
                raise WireError(f"a length of {value}, at most {most} is possible")
            if i and not byte:
                break
            return value, data[i + 1 :]
    raise WireError("a length is truncated or longer than needed")


class BitWriter:
    """Writes a short string of bits, from the first to the last."""

    def __init__(self) -> None:
        self.value, self.length = 0, 0

    def bits(self, value: int, width: int) -> None:
        """Append ``value`` in ``width`` bits."""
        self.value = self.value << width | value
        self.length += width

    def gamma(self, value: int) -> None:
        """Append ``value >= 1`` in Elias' gamma code: 2 floor(log2 value) + 1 bits."""
        self.bits(value, 2 * value.bit_length() - 1)

    def tobytes(self) -> bytes:
        """Return the string, filled up to whole bytes with zero bits."""
        size = -(-self.length // 8)
        return (self.value << 8 * size - self.length).to_bytes(size, "big")


class BitReader:
    """Reads what `BitWriter` wrote at the start of ``data``."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bits(self, width: int) -> int:
        """Return the next ``width`` bits.

        Raises
        ------
        WireError
            The data end before.
        """
        end = self.at + width
        if end > 8 * len(self.data):
            raise WireError("truncated inside a table")
        part = self.data[self.at // 8 : -(-end // 8)]
        self.at = end
        return int.from_bytes(part, "big") >> -end % 8 & (1 << width) - 1

    def gamma(self, widest: int) -> int:
        """Return the next number in gamma code, of at most ``widest`` bits.

        Raises
        ------
        WireError
            The data end before, or the number is larger.
        """
        width = 1
        while not self.bits(1):
            width += 1
            if width > widest:
                raise WireError(f"a number of more than {widest} bits in a table")
        return 1 << width - 1 | self.bits(width - 1)

    def rest(self) -> bytes:
        """Return the bytes after the string.

        Raises
        ------
        WireError
            The last byte of the string is filled up with something other than zeros.
        """
        if self.bits(-self.at % 8):
            raise WireError("a table is padded with something other than zeros")
        return self.data[self.at // 8 :]
