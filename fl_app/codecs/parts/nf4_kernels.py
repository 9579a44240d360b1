"""The arithmetic of NF4 on one flat tensor, with the bits of bitsandbytes 0.50.2.

``quantize_4bit`` of flattened input on a CPU gives the same codes and scales, with one exception:
bitsandbytes scales a full block of 0 < s < `FLOOR` by 1 / FLOOR but stores s, so it decodes to
something else. Here such a block is divided by its s, like a short one.
"""

from __future__ import annotations

import numpy as np

from fl_app.codecs.parts.block_kernels import F32, FLOOR, TILE, U8, absmax, absmax_numpy
from fl_app.codecs.parts.codebook import Codebook
from fl_app.codecs.parts.compiled import numba

__all__ = [
    "CODEBOOK",
    "FLOOR",
    "SYMBOLS",
    "TILE",
    "decode",
    "decode_numpy",
    "encode",
    "encode_numpy",
    "numba",
]

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
SYMBOLS = Codebook(CODEBOOK)


def encode(x: F32, scales: F32, packed: U8, block: int) -> bool:
    """Quantize a flat tensor into its scales and packed codes; see `Codebook.quantize`.

    Returns:
        False when x holds NaN or Inf; scales and packed are then meaningless.
    """
    absmax(x, scales, block)
    if not np.isfinite(scales).all():
        return False
    SYMBOLS.quantize(x, scales, packed, block)
    return True


def decode(packed: U8, scales: F32, out: F32, block: int) -> None:
    """Dequantize a flat tensor: ``out[i] = CODEBOOK[code[i]] * scales[i // block]`` in float32."""
    SYMBOLS.dequantize(packed, scales, out, np.array([out.size]), block)


def encode_numpy(x: F32, scales: F32, packed: U8, block: int) -> bool:
    """`encode` without numba, the same bits."""
    absmax_numpy(x, scales, block)
    if not np.isfinite(scales).all():
        return False
    SYMBOLS.quantize_numpy(x, scales, packed, block)
    return True


def decode_numpy(packed: U8, scales: F32, out: F32, block: int) -> None:
    """`decode` without numba, the same bits."""
    SYMBOLS.dequantize_numpy(packed, scales, out, np.array([out.size]), block)
