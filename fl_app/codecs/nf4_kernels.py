"""The arithmetic of NF4 on one flat tensor: numba kernels, and numpy with the same bits.

Both give the indices and scales of bitsandbytes 0.50.2 (``quantize_4bit``, flattened input, CPU):

- scale s = max |x| of the block, in float32; a short last block has at least `FLOOR`;
- y = x * (1 / s) in a full block, x / s in a short last one;
- code = how many of the 15 midpoints lie below y, so a tie goes to the lower code;
- the first value of a pair in the high nibble, a missing second one as the code of zero.

One exception: bitsandbytes scales a full block of 0 < s < `FLOOR` by 1 / FLOOR but stores s, so
it decodes to something else. Here such a block is divided by its s, like a short one.

The kernels are written for a vectorizing compiler: no branch per value, the thresholds literals
(module constants are frozen into the machine code), inner loops of a constant `TILE`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.compiled import jit, numba

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

# Quantiles of the normal distribution, 8 negative and 9 non-negative that share the zero, scaled
# to [-1, 1]: Dettmers et al., QLoRA (arXiv 2305.14314), appendix E, as bitsandbytes has them.
CODEBOOK: F32 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=np.float32,
)
MIDPOINTS: F32 = (CODEBOOK[:-1] + CODEBOOK[1:]) / np.float32(2)
PAIRS: F32 = np.stack([np.repeat(CODEBOOK, 16), np.tile(CODEBOOK, 16)], axis=1)
"""Shape (256, 2): the two values of every byte."""
# The same as 8 bytes each, in this machine's own order: one load, one store for both values.
_PAIRS_8 = PAIRS.view(np.uint64).reshape(-1)

FLOOR = np.float32(1e-38)
ZERO_CODE = 7
TILE = 64


# --- numpy ----------------------------------------------------------------------------------------

_CHUNK = 1 << 15  # values at a time: the temporaries stay in the cache and small beside the tensor


def encode_numpy(x: F32, absmax: F32, packed: U8, block: int) -> bool:
    """Quantize; see `encode`."""
    full = x.size // block * block
    rows = max(_CHUNK // block, 1) * block
    for start in range(0, full, rows):
        end = min(start + rows, full)
        values = x[start:end].reshape(-1, block)
        scales = np.abs(values).max(axis=1)
        if not np.isfinite(scales).all():
            return False
        y = values * (np.float32(1) / np.maximum(scales, FLOOR))[:, None]
        tiny = (scales > 0) & (scales < FLOOR)
        y[tiny] = values[tiny] / scales[tiny, None]
        _pack(y.reshape(-1), packed[start // 2 : end // 2])
        absmax[start // block : end // block] = scales
    if full < x.size:
        scale = np.maximum(np.abs(x[full:]).max(), FLOOR)
        if not np.isfinite(scale):
            return False
        _pack(x[full:] / scale, packed[full // 2 :])
        absmax[-1] = scale
    return True


def _pack(y: F32, packed: U8) -> None:
    codes = np.full(2 * packed.size, ZERO_CODE, np.uint8)
    counted = codes[: y.size]
    counted[:] = 0
    above = np.empty(y.size, np.bool_)
    for midpoint in MIDPOINTS:
        np.greater(y, midpoint, out=above)
        counted += above.view(np.uint8)
    np.left_shift(codes[0::2], np.uint8(4), out=packed)
    packed |= codes[1::2]


def decode_numpy(packed: U8, absmax: F32, out: F32, block: int) -> None:
    """Dequantize; see `decode`."""
    full = out.size // block * block
    rows = max(_CHUNK // block, 1) * block
    for start in range(0, full, rows):
        end = min(start + rows, full)
        values = _PAIRS_8[packed[start // 2 : end // 2]].view(np.float32).reshape(-1, block)
        scales = absmax[start // block : end // block, None]
        np.multiply(values, scales, out=out[start:end].reshape(-1, block))
    if full < out.size:
        values = _PAIRS_8[packed[full // 2 :]].view(np.float32)[: out.size - full]
        np.multiply(values, absmax[-1], out=out[full:])


# --- numba ----------------------------------------------------------------------------------------

M0, M1, M2, M3, M4, M5, M6, M7, M8, M9, M10, M11, M12, M13, M14 = MIDPOINTS
_ABS = np.int32(0x7FFFFFFF)
_INF = np.int32(0x7F800000)


@jit
def _code(y):
    u8 = np.uint8
    return (
        u8(y > M0)
        + u8(y > M1)
        + u8(y > M2)
        + u8(y > M3)
        + u8(y > M4)
        + u8(y > M5)
        + u8(y > M6)
        + u8(y > M7)
        + u8(y > M8)
        + u8(y > M9)
        + u8(y > M10)
        + u8(y > M11)
        + u8(y > M12)
        + u8(y > M13)
        + u8(y > M14)
    )


@jit
def _scales(x, absmax, block):
    # Floats without their sign order like their bits as integers, NaN and Inf on top: an integer
    # maximum vectorizes (a float one must mind NaN), and finds them on the way.
    bits = x.view(np.int32)
    scale_bits = absmax.view(np.int32)
    blocks = x.size // block
    top = np.int32(0)
    for b in range(blocks):
        most = np.int32(0)
        if block % TILE == 0:
            for start in range(b * block, (b + 1) * block, TILE):
                tile = bits[start : start + TILE]
                for i in range(TILE):
                    v = np.int32(tile[i] & _ABS)
                    most = v if v > most else most
        else:
            for v in bits[b * block : (b + 1) * block]:
                most = max(most, np.int32(v & _ABS))
        scale_bits[b] = most
        top = most if most > top else top
    if blocks * block < x.size:
        most = np.int32(0)
        for v in bits[blocks * block :]:
            most = max(most, np.int32(v & _ABS))
        scale_bits[blocks] = most
        top = most if most > top else top
        absmax[blocks] = max(absmax[blocks], FLOOR)
    return top < _INF


@jit
def _any_block(x, packed, multiply, by):
    for i in range(0, x.size, 2):
        high = _code(x[i] * by if multiply else x[i] / by)
        low = np.uint8(ZERO_CODE)
        if i + 1 < x.size:
            low = _code(x[i + 1] * by if multiply else x[i + 1] / by)
        packed[i // 2] = (high << 4) | low


@jit
def _encode(x, absmax, packed, block):
    if not _scales(x, absmax, block):
        return False
    codes = np.empty(TILE, np.uint8)
    full = x.size // block * block
    for b in range(x.size // block):
        start = b * block
        scale = absmax[b]
        if 0 < scale < FLOOR:
            end = start + block
            _any_block(x[start:end], packed[start // 2 : end // 2], False, scale)
            continue
        inverse = np.float32(1) / max(scale, FLOOR)
        if block % TILE == 0:
            for at in range(start, start + block, TILE):
                tile = x[at : at + TILE]
                out = packed[at // 2 : (at + TILE) // 2]
                for i in range(TILE):
                    codes[i] = _code(tile[i] * inverse)
                for i in range(TILE // 2):
                    out[i] = (codes[2 * i] << 4) | codes[2 * i + 1]
        else:
            end = start + block
            _any_block(x[start:end], packed[start // 2 : end // 2], True, inverse)
    if full < x.size:
        _any_block(x[full:], packed[full // 2 :], False, absmax[x.size // block])
    return True


@jit
def _decode(packed, absmax, out, block):
    pairs = np.empty(TILE // 2, np.uint64)
    values = pairs.view(np.float32)
    full = out.size // block * block
    tiles = 0
    if block % TILE == 0:
        tiles = full // TILE
        per_block = block // TILE
        for t in range(tiles):
            scale = absmax[t // per_block]
            tile = packed[t * (TILE // 2) : (t + 1) * (TILE // 2)]
            to = out[t * TILE : (t + 1) * TILE]
            for i in range(TILE // 2):
                pairs[i] = _PAIRS_8[tile[i]]
            for i in range(TILE):
                to[i] = values[i] * scale
    for i in range(tiles * TILE, out.size):
        out[i] = PAIRS[packed[i // 2], i % 2] * absmax[i // block]


def encode(x: F32, absmax: F32, packed: U8, block: int) -> bool:
    """Quantize a flat tensor into its scales and packed codes.

    Args:
        x: n float32 values, contiguous.
        absmax: out, ceil(n / block) scales.
        packed: out, ceil(n / 2) bytes.
        block: values per scale, even.

    Returns:
        False when x holds NaN or Inf; absmax and packed are then meaningless.
    """
    return bool(_encode(x, absmax, packed, block))


def decode(packed: U8, absmax: F32, out: F32, block: int) -> None:
    """Dequantize: ``out[i] = CODEBOOK[code[i]] * absmax[i // block]`` in float32.

    Args:
        packed: ceil(n / 2) bytes.
        absmax: ceil(n / block) scales.
        out: out, n values.
        block: values per scale, even.
    """
    _decode(packed, absmax, out, block)


if numba is None:
    _encode, _decode = encode_numpy, decode_numpy
