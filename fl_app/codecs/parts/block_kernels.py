"""What the kernels of all blockwise codecs share: largest magnitudes, and how x / s is rounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts.compiled import jit, numba

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

FLOOR = np.float32(1e-38)
"""The least scale of a short last block, and the least whose inverse is taken."""
TILE = 64
"""Values of a kernel's inner loop, a constant for the vectorizing compiler."""
CHUNK = 1 << 15
"""Values at a time in numpy: the temporaries stay in the cache and small beside the tensor."""

_MAGNITUDE = np.int32(0x7FFFFFFF)

# Floats without their sign order like their bits as integers, NaN and Inf on top: an integer
# maximum vectorizes (a float one must mind NaN) and finds them on the way.


def absmax_numpy(x: F32, out: F32, block: int) -> None:
    """Write the scales; see `absmax`."""
    full = x.size // block * block
    rows = max(CHUNK // block, 1) * block
    bits, scales = x.view(np.int32), out.view(np.int32)
    for start in range(0, full, rows):
        end = min(start + rows, full)
        magnitudes = (bits[start:end] & _MAGNITUDE).reshape(-1, block)
        np.maximum.reduce(magnitudes, 1, out=scales[start // block : end // block])
    if full < x.size:
        scales[-1] = (bits[full:] & _MAGNITUDE).max()
        if out[-1] < FLOOR:
            out[-1] = FLOOR


@jit
def _absmax(x, out, block):
    bits, scales = x.view(np.int32), out.view(np.int32)
    blocks = x.size // block
    for b in range(blocks):
        most = np.int32(0)
        if block % TILE == 0:
            for start in range(b * block, (b + 1) * block, TILE):
                tile = bits[start : start + TILE]
                for i in range(TILE):
                    v = np.int32(tile[i] & _MAGNITUDE)
                    most = v if v > most else most
        else:
            for v in bits[b * block : (b + 1) * block]:
                most = max(most, np.int32(v & _MAGNITUDE))
        scales[b] = most
    if blocks * block < x.size:
        most = np.int32(0)
        for v in bits[blocks * block :]:
            most = max(most, np.int32(v & _MAGNITUDE))
        scales[blocks] = most
        if out[blocks] < FLOOR:
            out[blocks] = FLOOR


def absmax(x: F32, out: F32, block: int) -> None:
    """Write the largest magnitude of every block; not finite where a value is not.

    Args:
        x: n float32 values, contiguous.
        out: ceil(n / block) scales; of a short last block at least `FLOOR`.
        block: values per scale, even.
    """
    _absmax(x, out, block)


if numba is None:
    _absmax = absmax_numpy


def relative(x: F32, scales: F32, block: int) -> F32:
    """Return ``x / s`` of whole blocks, or of one short block alone, as every kernel rounds it.

    It is x * (1 / s) in a full block and x / s in a short one (as in bitsandbytes 0.50.2), and
    also x / s where 0 < s < `FLOOR`, whose inverse is beyond float32.
    """
    if x.size % block:
        return x / scales[0]
    values = x.reshape(-1, block)
    y: F32 = values * np.divide(np.float32(1), np.maximum(scales, FLOOR))[:, None]
    tiny = (scales > 0) & (scales < FLOOR)
    y[tiny] = values[tiny] / scales[tiny, None]
    return y.reshape(-1)


def chunks(n: int, block: int) -> list[tuple[int, int]]:
    """Cut n values into runs of whole blocks and, last, the short block."""
    full = n // block * block
    step = max(CHUNK // block, 1) * block
    runs = [(start, min(start + step, full)) for start in range(0, full, step)]
    return [*runs, (full, n)] if full < n else runs
