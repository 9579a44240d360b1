"""Blockwise symmetric 8-bit integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec
from fl_app.codecs.parts.block_kernels import F32, FLOOR, U8, chunks, relative
from fl_app.codecs.parts.blockwise import blockwise
from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.registry import register

LARGEST = 127
_LARGEST = np.float32(LARGEST)
_STEP = np.float32(1) / _LARGEST  # 127 * _STEP is 1 in float32


@register("int8")
def int8(block: int = 64, scale: str = "fp32") -> Codec:
    """Send each value as one of 255 even steps of the largest magnitude of its block.

    ``s = max |x|`` of the block, ``q = round(127 x / s)``, halves to even; decoded ``q / 127 * s``.
    The symbol is q + 127: zero in the middle, magnitudes around it, 255 is never sent.

    Sections: the scales of all tensors (one section as fp32 or fp16, two as int8), then the
    symbols of all tensors, a byte each.

    Rate: ``n + 4 ceil(n / block)`` bytes a tensor with fp32 scales, 8.5 bits a value for block
    64; 8.25 with fp16, 8.127 with int8 (see `nf4`). Error: at most 0.003938 s per value, half a
    step, with the s that is sent; zeros are exact, and with fp32 scales the block's largest
    magnitude; relative L2 about 0.0059 on Gaussian values for block 64. For short blocks the scale
    is at least 1e-38.

    Parameters
    ----------
    block : int
        Values per scale, a power of two of at least 16.
    scale : str
        How scales are sent, as in `nf4`.

    Raises
    ------
    ValueError
        Another block or scale.
    CodecError
        In encode: NaN or Inf; with fp16 scales a magnitude beyond 65,504.
    WireError
        In decode: wrong lengths, a scale that is negative, NaN or Inf, symbol 255.

    References
    ----------
    Blockwise absmax quantization, Dettmers et al., 8-bit Optimizers via Block-wise Quantization,
    arXiv 2110.02861, section 2.1, with even steps.
    """
    return blockwise("int8", Integers(), block, scale)


class Integers:
    """``-127 / 127 ... 127 / 127`` as the symbols of `blockwise`."""

    bits = 8
    count = 2 * LARGEST + 1
    zero = LARGEST

    def quantize(self, x: F32, scales: F32, out: U8, block: int) -> None:
        """Write a symbol a byte."""
        _quantize(x, scales, out, block)

    def dequantize(
        self, symbols: U8, scales: F32, out: F32, sizes: NDArray[np.int64], block: int
    ) -> None:
        """Write ``(symbol - 127) / 127 * scale``, two products in float32."""
        _dequantize(symbols, scales, out, sizes, block)


def quantize_numpy(x: F32, scales: F32, out: U8, block: int) -> None:
    """See `Integers.quantize`."""
    for start, end in chunks(x.size, block):
        y = relative(x[start:end], scales[start // block : -(-end // block)], block)
        y *= _LARGEST
        np.rint(y, out=y)
        y += _LARGEST
        out[start:end] = y


def dequantize_numpy(
    symbols: U8, scales: F32, out: F32, sizes: NDArray[np.int64], block: int
) -> None:
    """See `Integers.dequantize`."""
    a = o = 0
    for n in sizes.tolist():
        for start, end in chunks(n, block):
            to = out[o + start : o + end]
            np.subtract(symbols[o + start : o + end], _LARGEST, out=to)
            to *= _STEP
            scale = scales[a + start // block : a - (-end // block)]
            rows = to.reshape(scale.size, -1)
            rows *= scale[:, None]
        a, o = a - (-n // block), o + n


@jit
def _quantize(x, scales, out, block):
    for b in range(scales.size):
        values, symbols = x[b * block : (b + 1) * block], out[b * block : (b + 1) * block]
        scale = scales[b]
        if 0 < scale < FLOOR or values.size < block:
            for i in range(values.size):
                y = values[i] / scale
                symbols[i] = np.uint8(np.int32(np.rint(y * _LARGEST)) + LARGEST)
        else:
            inverse = np.float32(1) / max(scale, FLOOR)
            for i in range(values.size):
                y = values[i] * inverse
                symbols[i] = np.uint8(np.int32(np.rint(y * _LARGEST)) + LARGEST)


@jit
def _dequantize(symbols, scales, out, sizes, block):
    a = o = 0
    for n in sizes:
        for start in range(0, n, block):
            end = min(start + block, n)
            part, to, scale = symbols[o + start : o + end], out[o + start : o + end], scales[a]
            for i in range(to.size):
                to[i] = np.float32(np.int32(part[i]) - LARGEST) * _STEP * scale
            a += 1
        o += n


if numba is None:
    _quantize, _dequantize = quantize_numpy, dequantize_numpy
