"""NormalFloat of b bits with scales in two levels, the quantizer of LQ-LoRA.

Guo et al. 2023, https://arxiv.org/abs/2311.12023. A matrix is cut into blocks of B0 weights, and
their scales into groups of B1::

    s_i = max |block i|,  s = min_i s_i                      s: float32, one a matrix
    t_g = max of s_i - s over group g                        t_g: b1
    l_i = round((2^b0 - 1) (s_i - s) / t_g)                  l_i: b0 bits
    Q = table[nearest(W / s'_i)] s'_i,   s'_i = s + t_g l_i / (2^b0 - 1)

That is ``b + b0 / B0 + bits(b1) / (B0 B1)`` bits a weight, and four bytes for s.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

OFFSET = 0.9677083  # the outermost quantile: 1 - (1/30 + 1/32) / 2
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Width(NamedTuple):
    """How a matrix is stored.

    Attributes
    ----------
    bits : int
        b, of a weight.
    scale_bits : int
        b0, of a block's scale.
    scale_type : str
        b1, of a group's largest scale: a key of ``TYPES``.
    block, group : int
        B0 weights share a scale, B1 scales a largest one.
    """

    bits: int
    scale_bits: int
    scale_type: str
    block: int
    group: int

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of a weight with its share of the scales."""
        last = 8 * TYPES[self.scale_type].itemsize
        return self.bits + self.scale_bits / self.block + last / (self.block * self.group)

    def nbytes(self, weights: int) -> int:
        """Return the bytes of a matrix of so many weights, as `Quantized.packed` has them."""
        blocks = -(-weights // self.block)
        groups = -(-blocks // self.group)
        bits = weights * self.bits, blocks * self.scale_bits
        return sum(-(-n // 8) for n in bits) + groups * TYPES[self.scale_type].itemsize + 4


def table(bits: int) -> Tensor:
    """Return the 2^b values of NormalFloat in ascending order, from -1 to 1, 0 among them.

    They are quantiles of the normal distribution: 2^(b-1) up to the median, which is 0, and
    2^(b-1) above it.
    """
    half = 2 ** (bits - 1)
    left = torch.linspace(1 - OFFSET, 0.5, half, dtype=torch.float64)
    right = torch.linspace(0.5, OFFSET, half + 1, dtype=torch.float64)
    quantiles = torch.special.ndtri(torch.cat([left[:-1], right]))
    quantiles[half - 1] = 0.0
    return (quantiles / quantiles.abs().max()).float()


@dataclass(frozen=True)
class Quantized:
    """A quantized matrix.

    Attributes
    ----------
    width : Width
        How it is stored.
    shape : tuple of int
        Of the matrix.
    codes : uint8 tensor [weights]
        Places in `table`.
    levels : uint8 tensor [blocks]
        l_i.
    largest : tensor [groups]
        t_g, of type b1.
    least : float
        s.
    """

    width: Width
    shape: tuple[int, ...]
    codes: Tensor
    levels: Tensor
    largest: Tensor
    least: float

    def scales(self) -> Tensor:
        """Return s'_i, float32 [blocks]."""
        return _scales(self.levels, self.largest, self.least, self.width)

    def dequantized(self) -> Tensor:
        """Return Q, float32 [out, in]."""
        scales = self.scales().repeat_interleave(self.width.block)[: self.codes.numel()]
        return (table(self.width.bits)[self.codes.int()] * scales).reshape(self.shape)

    def packed(self) -> dict[str, bytes]:
        """Return the bytes of the four arrays: what Q costs."""
        return {
            "codes": _packed(self.codes, self.width.bits),
            "levels": _packed(self.levels, self.width.scale_bits),
            "largest": self.largest.view(torch.uint8).numpy().tobytes(),
            "least": np.float32(self.least).tobytes(),
        }

    def digest(self) -> bytes:
        """Return the SHA-256 of how it is stored and of the packed bytes."""
        sha = hashlib.sha256(repr((*self.width, *self.shape)).encode())
        for part in self.packed().values():
            sha.update(part)
        return sha.digest()


def quantize(w: Tensor, width: Width) -> Quantized:
    """Return ``w`` [out, in] in the nearest codes of ``width``; a tie goes to the lower one."""
    flat = w.detach().reshape(-1).float()
    blocks = _cut(flat, width.block)
    scales = blocks.abs().amax(1)
    least = float(scales.min())
    groups = _cut(scales - least, width.group)
    largest = groups.amax(1).to(TYPES[width.scale_type])
    steps = 2**width.scale_bits - 1
    top = largest.float()[:, None]
    levels = (groups / torch.where(top > 0, top, 1.0) * steps).round().clamp(0, steps)
    coded = levels.reshape(-1)[: scales.numel()].to(torch.uint8)
    restored = _scales(coded, largest, least, width)[:, None]
    values = table(width.bits)
    midpoints = (values[1:] + values[:-1]) / 2
    relative = blocks / torch.where(restored > 0, restored, 1.0)
    codes = torch.bucketize(relative, midpoints, out_int32=True).reshape(-1)[: flat.numel()]
    return Quantized(width, tuple(w.shape), codes.to(torch.uint8), coded, largest, least)


def _scales(levels: Tensor, largest: Tensor, least: float, width: Width) -> Tensor:
    tops = largest.float().repeat_interleave(width.group)[: levels.numel()]
    return least + tops * (levels.float() / (2**width.scale_bits - 1))


def _cut(flat: Tensor, size: int) -> Tensor:
    """Return ``flat`` in rows of ``size``; the last one ends with zeros, which no maximum sees."""
    return nn.functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)


def _packed(codes: Tensor, bits: int) -> bytes:
    """Return codes in ``bits`` each, the highest bit first."""
    planes = np.unpackbits(codes.numpy()[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(planes).tobytes()
