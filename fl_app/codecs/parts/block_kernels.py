"""Shared by the kernels of blockwise codecs: largest magnitudes, and how x / s is rounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts.compiled import jit, numba

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

FLOOR = np.float32(1e-38)
"""The least scale of a short last block, and the least scale whose inverse is taken."""
TILE = 64
"""Values of a kernel's inner loop, a constant for the vectorizing compiler."""
CHUNK = 1 << 15
"""Values at a time in numpy, so that the temporaries are small and stay in the cache."""

_MAGNITUDE = np.int32(0x7FFFFFFF)

# Without their sign, floats are ordered like their bits as integers, with Inf and NaN above all: a
# maximum of integers is vectorized (one of floats has to mind NaN), and finds Inf and NaN as well.


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

    Parameters
    ----------
    x : float32 [n]
        Contiguous.
    out : float32 [ceil(n / block)]
        Where to write; of a short last block at least `FLOOR`.
    block : int
        Values per block, even.
    """
    _absmax(x, out, block)


if numba is None:
    _absmax = absmax_numpy


def relative(x: F32, scales: F32, block: int) -> F32:
    """Return ``x / s`` of whole blocks, or of one short block, rounded as every kernel does.

    It is x * (1 / s) in a full block and x / s in a short one, as in bitsandbytes 0.50.2; also
    x / s where 0 < s < `FLOOR`, as 1 / s is then beyond float32.
    """
    if x.size % block:
        return x / scales[0]
    values = x.reshape(-1, block)
    y: F32 = values * np.divide(np.float32(1), np.maximum(scales, FLOOR))[:, None]
    tiny = (scales > 0) & (scales < FLOOR)
    y[tiny] = values[tiny] / scales[tiny, None]
    return y.reshape(-1)


def chunks(n: int, block: int) -> list[tuple[int, int]]:
    """Return the start and end of runs of whole blocks of n values and, last, of the short one."""
    full = n // block * block
    step = max(CHUNK // block, 1) * block
    runs = [(start, min(start + step, full)) for start in range(0, full, step)]
    return [*runs, (full, n)] if full < n else runs
