"""Symbols of 4 bits out of a codebook of up to 16 values: numba kernels, and numpy, same bits.

The symbol of a value is the number of the codebook's midpoints below x / s (see
`block_kernels.relative`), so that a tie goes to the lower symbol.

The kernels are written for a vectorizing compiler: no branch per value, the midpoints in local
variables, inner loops of a constant `TILE`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts import permute
from fl_app.codecs.parts.block_kernels import F32, FLOOR, TILE, U8, chunks, relative
from fl_app.codecs.parts.compiled import jit, numba

if permute.AVAILABLE:
    from fl_app.codecs.parts.permute import look_up


class Codebook:
    """Up to 16 ascending values from -1 to 1, one of them 0, as the symbols of `blockwise`.

    Attributes
    ----------
    table : float32 [16]
        The value of each symbol; 1 for those that are never sent.
    midpoints : float32 [15]
        The midpoints of neighbouring values, then infinity, which no value exceeds.
    """

    bits = 4

    def __init__(self, values: F32) -> None:
        self.count = values.size
        self.zero = int(np.flatnonzero(values == 0)[0])
        self.table = np.ones(16, np.float32)
        self.table[: self.count] = values
        self.midpoints = np.full(15, np.inf, np.float32)
        self.midpoints[: self.count - 1] = (values[:-1] + values[1:]) / np.float32(2)

    def quantize(self, x: F32, scales: F32, out: U8, block: int) -> None:
        """Write two symbols a byte, the first in the high half; a missing second one is zero's."""
        _quantize(x, scales, out, block, self.midpoints, self.zero)

    def dequantize(
        self, symbols: U8, scales: F32, out: F32, sizes: NDArray[np.int64], block: int
    ) -> None:
        """Write ``table[symbol] * scale`` in float32."""
        _dequantize(symbols, scales, out, sizes, block, self.table)


# --- numpy ----------------------------------------------------------------------------------------


def quantize_numpy(x: F32, scales: F32, packed: U8, block: int, midpoints: F32, zero: int) -> None:
    """See `Codebook.quantize`."""
    for start, end in chunks(x.size, block):
        y = relative(x[start:end], scales[start // block : -(-end // block)], block)
        codes = np.full(y.size + y.size % 2, zero, np.uint8)
        counted = codes[: y.size]
        counted[:] = 0
        above = np.empty(y.size, np.bool_)
        for midpoint in midpoints:
            np.greater(y, midpoint, out=above)
            counted += above.view(np.uint8)
        out = packed[start // 2 : -(-end // 2)]
        np.left_shift(codes[0::2], np.uint8(4), out=out)
        out |= codes[1::2]


def dequantize_numpy(
    packed: U8, scales: F32, out: F32, sizes: NDArray[np.int64], block: int, table: F32
) -> None:
    """See `Codebook.dequantize`."""
    pairs = np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=1)
    both = pairs.view(np.uint64).reshape(-1)  # the two values of each byte as one item: one look-up
    a = p = o = 0
    for n in sizes.tolist():
        for start, end in chunks(n, block):
            scale = scales[a + start // block : a - (-end // block)]
            values = both[packed[p + start // 2 : p - (-end // 2)]].view(np.float32)[: end - start]
            to = out[o + start : o + end].reshape(scale.size, -1)
            np.multiply(values.reshape(to.shape), scale[:, None], out=to)
        a, p, o = a - (-n // block), p - (-n // 2), o + n


# --- numba ----------------------------------------------------------------------------------------


@jit
def _symbol(y, m):
    u8 = np.uint8
    return (
        u8(y > m[0])
        + u8(y > m[1])
        + u8(y > m[2])
        + u8(y > m[3])
        + u8(y > m[4])
        + u8(y > m[5])
        + u8(y > m[6])
        + u8(y > m[7])
        + u8(y > m[8])
        + u8(y > m[9])
        + u8(y > m[10])
        + u8(y > m[11])
        + u8(y > m[12])
        + u8(y > m[13])
        + u8(y > m[14])
    )


@jit
def _any_block(x, packed, multiply, by, m, zero):
    for i in range(0, x.size, 2):
        high = _symbol(x[i] * by if multiply else x[i] / by, m)
        low = np.uint8(zero)
        if i + 1 < x.size:
            low = _symbol(x[i + 1] * by if multiply else x[i + 1] / by, m)
        packed[i // 2] = (high << 4) | low


@jit
def _quantize(x, scales, packed, block, midpoints, zero):
    k = midpoints
    m = (
        *(k[0], k[1], k[2], k[3], k[4]),
        *(k[5], k[6], k[7], k[8], k[9]),
        *(k[10], k[11], k[12], k[13], k[14]),
    )
    codes = np.empty(TILE, np.uint8)
    full = x.size // block * block
    for b in range(x.size // block):
        start, end = b * block, (b + 1) * block
        scale = scales[b]
        if 0 < scale < FLOOR:
            _any_block(x[start:end], packed[start // 2 : end // 2], False, scale, m, zero)
            continue
        inverse = np.float32(1) / max(scale, FLOOR)
        if block % TILE == 0:
            for at in range(start, end, TILE):
                tile = x[at : at + TILE]
                out = packed[at // 2 : (at + TILE) // 2]
                for i in range(TILE):
                    codes[i] = _symbol(tile[i] * inverse, m)
                for i in range(TILE // 2):
                    out[i] = (codes[2 * i] << 4) | codes[2 * i + 1]
        else:
            _any_block(x[start:end], packed[start // 2 : end // 2], True, inverse, m, zero)
    if full < x.size:
        _any_block(x[full:], packed[full // 2 :], False, scales[x.size // block], m, zero)


@jit
def _plain_tile(packed, scale, out, table):
    for i in range(TILE // 2):
        out[2 * i] = table[packed[i] >> 4] * scale
        out[2 * i + 1] = table[packed[i] & 15] * scale


if permute.AVAILABLE:

    @jit
    def _tile(packed, scale, out, table):
        for i in range(0, TILE, 16):
            look_up(packed[i // 2 : i // 2 + 8], table, scale, out[i : i + 16])

else:
    _tile = _plain_tile


@jit
def _dequantize(packed, scales, out, sizes, block, table):
    a = p = o = 0
    for n in sizes:
        for b in range((n + block - 1) // block):
            scale = scales[a + b]
            start, end = b * block, min((b + 1) * block, n)
            tiles = (end - start) // TILE * TILE
            for at in range(start, start + tiles, TILE):
                part = packed[p + at // 2 : p + (at + TILE) // 2]
                _tile(part, scale, out[o + at : o + at + TILE], table)
            for at in range(start + tiles, end, 2):
                byte = packed[p + at // 2]
                out[o + at] = table[byte >> 4] * scale
                if at + 1 < end:
                    out[o + at + 1] = table[byte & 15] * scale
        a += (n + block - 1) // block
        p += (n + 1) // 2
        o += n


if numba is None:
    _quantize, _dequantize = quantize_numpy, dequantize_numpy
