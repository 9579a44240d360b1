"""float32 to IEEE half precision and back, in integers: the same bits as numpy's, but faster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts.compiled import jit, numba

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

# Bits of the least normal half as a float32; a float32 whose last place is the least half.
_NORMAL = np.int32((127 - 14) << 23)
_DENORMAL = np.float32(0.5)
_DENORMAL_BITS = np.int32(126 << 23)
_REBIAS = np.int32((15 - 127) << 23)
_SCALE = np.float32(2.0 ** (127 - 15))


def to_half_numpy(x: F32, out: U16) -> None:
    """See `to_half`."""
    with np.errstate(under="ignore"):
        np.copyto(out.view(np.float16), x, casting="same_kind")


def from_half_numpy(bits: U16, out: F32) -> None:
    """See `from_half`."""
    np.copyto(out, bits.view(np.float16))


@jit
def _to_half(x, out):
    bits = x.view(np.int32)
    for i in range(out.size):
        magnitude = np.int32(bits[i] & np.int32(0x7FFFFFFF))
        odd = np.int32((magnitude >> 13) & 1)
        normal = np.int32(np.int32(magnitude + _REBIAS + np.int32(0xFFF) + odd) >> 13)
        # The sum is rounded to a multiple of 2**-24, as halves below the normal ones are.
        shifted = np.float32(abs(x[i]) + _DENORMAL).view(np.int32)
        denormal = np.int32(shifted - _DENORMAL_BITS)
        half = denormal if magnitude < _NORMAL else normal
        out[i] = np.uint16(half | ((bits[i] >> 16) & np.int32(0x8000)))


@jit
def _from_half(bits, out):
    as_bits = out.view(np.int32)
    for i in range(out.size):
        as_bits[i] = np.int32(bits[i] & 0x7FFF) << 13
    for i in range(out.size):
        value = out[i] * _SCALE
        out[i] = -value if bits[i] & 0x8000 else value


def to_half(x: F32, out: U16) -> None:
    """Write x, flat and of magnitudes that round to a finite half, to nearest even."""
    _to_half(x, out)


def from_half(bits: U16, out: F32) -> None:
    """Write the values of finite halves."""
    _from_half(bits, out)


if numba is None:
    _to_half, _from_half = to_half_numpy, from_half_numpy
