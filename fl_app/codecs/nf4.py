"""Blockwise 4-bit NormalFloat."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec
from fl_app.codecs.parts.block_kernels import F32
from fl_app.codecs.parts.blockwise import blockwise
from fl_app.codecs.parts.codebook import Codebook
from fl_app.codecs.registry import register

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
    np.float32,
)


@register("nf4")
def nf4(block: int = 64, scale: str = "fp32") -> Codec:
    """Send each value as the nearest of 16 normal quantiles times its block's largest magnitude.

    A tensor is flattened and cut into blocks of ``block`` values, the last of which may be short.
    With ``s = max |x|`` of the block, ``code = argmin |CODEBOOK - x / s|``, a tie to the lower
    code, decoded ``CODEBOOK[code] * s``.

    With fp32 scales the bits are those that bitsandbytes 0.50.2 gives for flattened input on a CPU,
    except in full blocks with 0 < s < 1e-38: bitsandbytes scales these by 1e38 but sends s, so that
    it decodes other values; here they are divided by s. The other formats round s up first, and the
    codes are those of the rounded s.

    Sections: the scales of all tensors, then the codes of all tensors, two a byte, each tensor
    padded to a whole byte. Scales are one section of little-endian float32 or float16; as int8
    they are two: a float32 for every 256 scales of a tensor, then a byte a scale.

    Rate: ``ceil(n / 2)`` bytes a tensor and, for its b = ceil(n / block) scales, ``4 b`` (fp32),
    ``2 b`` (fp16) or ``b + 4 ceil(b / 256)`` (int8): 4.5, 4.25 or 4.127 bits a value for block 64.
    Error: at most 0.15191 s per value, half of the widest gap, where s is the scale that is sent:
    at most 2**-10 s + 2**-24 above the block's magnitude as fp16, and a 255th of the group's
    largest as int8. Zeros are exact, and with fp32 scales the block's largest magnitude; relative
    L2 about 0.092 on Gaussian values for block 64. For short blocks the scale is at least 1e-38.
    With fp32 scales, encoding what was decoded changes no bit.

    Parameters
    ----------
    block : int
        Values per scale, a power of two of at least 16.
    scale : str
        How scales are sent: "fp32", "fp16", or "int8" (double quantization).

    Raises
    ------
    ValueError
        Another block or scale.
    CodecError
        In encode: NaN or Inf; with fp16 scales a magnitude beyond 65,504.
    WireError
        In decode: wrong lengths, a scale that is negative, NaN or Inf, padding that is not zero's
        code.

    References
    ----------
    Dettmers et al., QLoRA, arXiv 2305.14314; sent as in 4-bit LoRA for PFL-DocVQA.
    """
    return blockwise("nf4", Codebook(CODEBOOK), block, scale)
