"""Values in blocks, each a symbol times the scale of its block: what NF4, FP4 and int8 share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, CodecError, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections, check_tree, not_finite
from fl_app.codecs.parts.block_kernels import F32, U8, absmax
from fl_app.codecs.parts.pages import new_values
from fl_app.codecs.parts.scales import SCALES
from fl_app.tree import Tree, split


class Symbols(Protocol):
    """The symbols that stand for the values of [-1, 1], in ascending order.

    Attributes:
        bits: 4 or 8 a symbol; two of 4 bits share a byte, the first in the high half.
        count: symbols in use, from 0; the others are never sent.
        zero: the symbol of zero, which also fills up the last byte of a tensor.
    """

    bits: int
    count: int
    zero: int

    def quantize(self, x: F32, scales: F32, out: U8, block: int) -> None:
        """Write the symbols of ``x / scales`` for one flat tensor."""

    def dequantize(
        self, symbols: U8, scales: F32, out: F32, sizes: NDArray[np.int64], block: int
    ) -> None:
        """Write the values of flat tensors of ``sizes``, one after the other."""


def blockwise(name: str, symbols: Symbols, block: int, scale: str) -> Codec:
    """Flatten every tensor, cut it into blocks and send a scale and the symbols of each.

    Sections: the scales of all tensors (see `scales`), then the symbols of all tensors,
    each tensor padded to a whole byte.

    Raises:
        ValueError: block is not a power of two of at least 16, or the scale's format is unknown.
    """
    if type(block) is not int or not 16 <= block <= 2**30 or block & (block - 1):
        raise ValueError(f"{name}: block must be a power of two of at least 16, got {block!r}")
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"{name}: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    scales = SCALES[scale]
    per_byte = 8 // symbols.bits

    def shape(ref: Tree) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Values, blocks and bytes of symbols of every tensor."""
        sizes = np.array([r.size for r in ref.values()], np.int64)
        return sizes, -(-sizes // block), -(-sizes // per_byte)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        _, blocks, nbytes = shape(ref)
        return *scales.streams(blocks), Stream(symbols.bits, per_byte * int(nbytes.sum()))

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        _, blocks, nbytes = shape(ref)
        flat = [x.reshape(-1) for x in tree.values()]
        most = np.empty(blocks.sum(), np.float32)
        ends = np.cumsum(blocks).tolist()
        for x, n, end in zip(flat, blocks.tolist(), ends, strict=True):
            absmax(x, most[end - n : end], block)
        _check(most, list(tree), ends)
        sections, rounded = scales.write(most, blocks)
        out = np.empty(nbytes.sum(), np.uint8)
        at = 0
        for x, n, end, size in zip(flat, blocks.tolist(), ends, nbytes.tolist(), strict=True):
            symbols.quantize(x, rounded[end - n : end], out[at : at + size], block)
            at += size
        return Wire((*sections, out.tobytes())), state

    def _check(most: F32, names: list[str], ends: list[int]) -> None:
        if not most.size or most.max() <= scales.limit:
            return
        first = int(np.argmin(most <= scales.limit))
        tensor = names[int(np.searchsorted(ends, first, side="right"))]
        if not np.isfinite(most[first]):
            raise not_finite(tensor)
        raise CodecError(
            f"{name}: {tensor!r} has values beyond {scales.limit:,.0f}, the largest scale that"
            f" {scale} holds; use scale: fp32"
        )

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        sizes, blocks, nbytes = shape(ref)
        sent = np.frombuffer(wire.sections[-1], np.uint8)
        try:
            found = scales.read(wire.sections[:-1], blocks)
        except ValueError as reason:
            raise WireError(f"{name}: {reason}") from None
        if symbols.count < 2**symbols.bits and _largest(sent) >= symbols.count:
            raise WireError(
                f"{name}: a symbol of {symbols.count} or more, which stands for nothing"
            )
        if symbols.bits == 4:
            ends = np.cumsum(nbytes)
            padded = np.flatnonzero(sizes % 2)
            wrong = padded[sent[ends[padded] - 1] & 15 != symbols.zero]
            if wrong.size:
                tensor = list(ref)[wrong[0]]
                raise WireError(f"{name}: {tensor!r} is padded with something else than zero")
        out = new_values(int(sizes.sum()))
        symbols.dequantize(sent, found, out, sizes, block)
        return split(out, ref)

    def _largest(sent: U8) -> int:
        if symbols.bits == 8 or not sent.size:
            return int(sent.max(initial=0))
        return max(int(sent.max()) >> 4, int((sent & 15).max()))

    return Codec(stateless, encode, decode, scales.sections + 1, streams)
