"""Values in blocks, each a symbol times the scale of its block: what NF4, FP4 and int8 share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, CodecError, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections, check_tree, not_finite
from fl_app.codecs.parts.block_kernels import F32, U8, absmax
from fl_app.codecs.parts.scales import SCALES, Counts
from fl_app.tree import Tree, scalars, split


class Alphabet(Protocol):
    """The symbols of the values of [-1, 1], in ascending order.

    Attributes
    ----------
    bits : int
        4 or 8 a symbol; two of 4 bits share a byte, the first in the high half.
    count : int
        Symbols in use, from 0; the others are never sent.
    zero : int
        The symbol of zero, which also fills up the last byte of a tensor.
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


def blockwise(name: str, alphabet: Alphabet, block: int, scale: str) -> Codec:
    """Flatten every tensor, cut it into blocks and send a scale and the symbols of each.

    Sections: the scales of all tensors (see `scales`), then the symbols of all tensors, each tensor
    padded to a whole byte.

    Parameters
    ----------
    name : str
        The codec's id, for errors.
    alphabet : Alphabet
        The symbols.
    block : int
        Values per scale.
    scale : str
        A key of ``SCALES``.

    Raises
    ------
    ValueError
        block is not a power of two of at least 16, or the scale's format is unknown.
    """
    if type(block) is not int or not 16 <= block <= 2**30 or block & (block - 1):
        raise ValueError(f"{name}: block must be a power of two of at least 16, got {block!r}")
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"{name}: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    scales = SCALES[scale]
    per_byte = 8 // alphabet.bits

    def counts(ref: Tree) -> tuple[Counts, Counts, Counts]:
        """Return the values, the blocks and the bytes of symbols of every tensor."""
        sizes = np.array([r.size for r in ref.values()], np.int64)
        return sizes, -(-sizes // block), -(-sizes // per_byte)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        _, blocks, nbytes = counts(ref)
        return *scales.streams(blocks), Stream(alphabet.bits, per_byte * int(nbytes.sum()))

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        _, blocks, nbytes = counts(ref)
        flat = [x.reshape(-1) for x in tree.values()]
        magnitudes = np.empty(blocks.sum(), np.float32)
        ends = np.cumsum(blocks).tolist()
        for x, n, end in zip(flat, blocks.tolist(), ends, strict=True):
            absmax(x, magnitudes[end - n : end], block)
        _check_magnitudes(name, scale, magnitudes, list(tree), ends)
        sections, rounded = scales.write(magnitudes, blocks)
        out = np.empty(nbytes.sum(), np.uint8)
        at = 0
        for x, n, end, size in zip(flat, blocks.tolist(), ends, nbytes.tolist(), strict=True):
            alphabet.quantize(x, rounded[end - n : end], out[at : at + size], block)
            at += size
        return Wire((*sections, out.tobytes())), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        sizes, blocks, nbytes = counts(ref)
        symbols = np.frombuffer(wire.sections[-1], np.uint8)
        try:
            received = scales.read(wire.sections[:-1], blocks)
        except WireError as reason:
            raise WireError(f"{name}: {reason}") from None
        _check_symbols(name, alphabet, symbols)
        if alphabet.bits == 4:
            _check_padding(name, alphabet, symbols, sizes, np.cumsum(nbytes), list(ref))
        out = np.empty(scalars(ref), np.float32)
        alphabet.dequantize(symbols, received, out, sizes, block)
        return split(out, ref)

    return Codec(stateless, encode, decode, scales.sections + 1, streams)


def _check_magnitudes(
    name: str, scale: str, magnitudes: F32, tensors: list[str], ends: list[int]
) -> None:
    """Refuse NaN, Inf and what the format of the scales does not hold.

    Parameters
    ----------
    ends : list of int
        The number of blocks up to the end of each tensor.
    """
    limit = SCALES[scale].limit
    if not magnitudes.size or magnitudes.max() <= limit:
        return
    first = int(np.argmin(magnitudes <= limit))
    tensor = tensors[int(np.searchsorted(ends, first, side="right"))]
    if not np.isfinite(magnitudes[first]):
        raise not_finite(tensor)
    raise CodecError(
        f"{name}: {tensor!r} has values beyond {limit:,.0f}, the largest scale that {scale} holds;"
        " use scale: fp32"
    )


def _check_symbols(name: str, alphabet: Alphabet, packed: U8) -> None:
    """Refuse symbols that are never sent."""
    if alphabet.count == 2**alphabet.bits or not packed.size:
        return
    parts = [packed] if alphabet.bits == 8 else [packed >> 4, packed & 15]
    if max(part.max() for part in parts) >= alphabet.count:
        raise WireError(f"{name}: a symbol of {alphabet.count} or more, which stands for nothing")


def _check_padding(
    name: str, alphabet: Alphabet, packed: U8, sizes: Counts, ends: Counts, tensors: list[str]
) -> None:
    """Refuse a tensor of an odd number of values whose last symbol is not that of zero."""
    padded = np.flatnonzero(sizes % 2)
    wrong = padded[packed[ends[padded] - 1] & 15 != alphabet.zero]
    if wrong.size:
        raise WireError(f"{name}: {tensors[wrong[0]]!r} is padded with something other than zero")
