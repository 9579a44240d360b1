"""How the scale of a block travels: float32, float16, or 8 bits of the largest scale of a group.

A rounded scale is never below the block's largest magnitude, so that ``|x| / s <= 1`` holds.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Stream
from fl_app.codecs.parts.block_kernels import F32
from fl_app.codecs.parts.groups import read_scales

GROUP = 256
"""Scales of one tensor that share a float32 in the format int8, as in QLoRA."""

Counts = NDArray[np.int64]
"""How many blocks every tensor has."""


class Scales(Protocol):
    """A format of scales.

    Attributes
    ----------
    sections : int
        How many sections it writes.
    limit : float
        The largest scale that it holds.
    """

    sections: int
    limit: float

    def streams(self, blocks: Counts) -> tuple[Stream, ...]:
        """Return what each section holds."""

    def write(self, absmax: F32, blocks: Counts) -> tuple[tuple[bytes, ...], F32]:
        """Return the sections, and the scales as `read` will find them."""

    def read(self, sections: tuple[bytes, ...], blocks: Counts) -> F32:
        """Return the scales, finite and not negative.

        Raises
        ------
        WireError
            One is negative, NaN or Inf.
        """


class _Float:
    """One IEEE number a block: ``4 n`` or ``2 n`` bytes."""

    sections = 1

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self.limit = float(np.finfo(self._dtype).max)

    def streams(self, blocks: Counts) -> tuple[Stream, ...]:
        return (Stream(8, self._dtype.itemsize * int(blocks.sum())),)

    def write(self, absmax: F32, blocks: Counts) -> tuple[tuple[bytes, ...], F32]:
        with np.errstate(under="ignore"):
            rounded = absmax.astype(self._dtype)
        # As integers, the next float is the next integer.
        bits = rounded.view(f"<u{self._dtype.itemsize}")
        bits[rounded.astype(np.float32) < absmax] += 1
        return (rounded.tobytes(),), rounded.astype(np.float32)

    def read(self, sections: tuple[bytes, ...], blocks: Counts) -> F32:
        return read_scales(sections[0], self._dtype)


class _Int8:
    """``s = S c / 255`` with c in 8 bits, S the largest s of a group of a tensor's blocks, float32.

    ``c = ceil(255 s / S)``. It takes ``n + 4 ceil(n / 256)`` bytes for a tensor of n blocks. This
    is the double quantization of QLoRA (section 3), but rounded upwards and in even steps.
    """

    sections = 2
    limit = float(np.finfo(np.float32).max)

    def _groups(self, blocks: Counts) -> Counts:
        """Blocks of every group, tensor by tensor."""
        groups = -(-blocks // GROUP)
        sizes = np.full(groups.sum(), GROUP, np.int64)
        some = groups > 0
        sizes[np.cumsum(groups)[some] - 1] -= (groups * GROUP - blocks)[some]
        return sizes

    def streams(self, blocks: Counts) -> tuple[Stream, ...]:
        return Stream(8, 4 * int((-(-blocks // GROUP)).sum())), Stream(8, int(blocks.sum()))

    def write(self, absmax: F32, blocks: Counts) -> tuple[tuple[bytes, ...], F32]:
        sizes = self._groups(blocks)
        if not sizes.size:
            return (b"", b""), absmax
        most = np.maximum.reduceat(absmax, np.cumsum(sizes) - sizes).astype("<f4", copy=False)
        divisor = np.repeat(np.where(most > 0, most, 1).astype(np.float64), sizes)
        code = np.ceil(255 * absmax.astype(np.float64) / divisor).astype(np.uint8)
        sections = most.tobytes(), code.tobytes()
        return sections, self.read(sections, blocks)

    def read(self, sections: tuple[bytes, ...], blocks: Counts) -> F32:
        most = _FP32.read(sections[:1], blocks)
        code = np.frombuffer(sections[1], np.uint8)
        # In float64 the product is exact, and S * 255 / 255 is S.
        product = np.repeat(most.astype(np.float64), self._groups(blocks)) * code
        return (product / 255).astype(np.float32)


_FP32 = _Float("<f4")
SCALES: dict[str, Scales] = {"fp32": _FP32, "fp16": _Float("<f2"), "int8": _Int8()}
