"""Blockwise 4-bit floats."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec
from fl_app.codecs.parts.block_kernels import F32
from fl_app.codecs.parts.blockwise import blockwise
from fl_app.codecs.parts.codebook import Codebook
from fl_app.codecs.registry import register

# e2m1 has the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4 and 6: OCP Microscaling Formats (MX) 1.0, 5.3.3.
_POSITIVE: F32 = np.array([0.5, 1, 1.5, 2, 3, 4, 6], np.float32) / np.float32(6)
CODEBOOK: F32 = np.concatenate([-_POSITIVE[::-1], np.zeros(1, np.float32), _POSITIVE])


@register("fp4")
def fp4(block: int = 64, scale: str = "fp32") -> Codec:
    """Send each value as the nearest 4-bit float (e2m1) times a sixth of its block's magnitude.

    This is `nf4` with the codebook ``+-{0, 0.5, 1, 1.5, 2, 3, 4, 6} / 6``, the e2m1 of the OCP
    standard. The codes are the 15 values in ascending order, so that zero is one symbol, 7, as in
    NF4; 15 is never sent. bitsandbytes' fp4 has 0.0625 in the place of 0.5, which leaves half of
    the range around zero to one value: its relative L2 on Gaussian values is 0.122 for block 64.

    Sections and rate: those of `nf4`. Error: at most 0.16667 s per value, half of the gap between
    4 and 6, with the s that is sent; zeros are exact, and with fp32 scales the block's largest
    magnitude; relative L2 about 0.106 on Gaussian values for block 64. For short blocks the scale
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
        In decode: wrong lengths, a scale that is negative, NaN or Inf, code 15, padding that is not
        zero's code.

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3, with scales of any value in the
    place of powers of two.
    """
    return blockwise("fp4", Codebook(CODEBOOK), block, scale)
