"""Sparsification: the largest values only, and a bitmap of their positions."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import groups, sparse
from fl_app.codecs.registry import register
from fl_app.tree import Tree, scalars, split


@register("top_k")
def top_k(fraction: float = 0.05, scope: str = "tensor") -> Codec:
    """Keep the k values of largest magnitude, ``k = max(1, round(fraction * n))``; the rest is 0.

    k is rounded half to even, 0 for n = 0; among equal magnitudes the lowest index is kept. It is a
    link: the kept values are its rest, in the order of their indices, one tensor of shape (k_j,)
    per tensor, or one named "values" for all.

    Section: one bit per value of the tree, tensors concatenated, 1 for a kept one. `entropy` turns
    it into the shorter code of the gaps.

    Rate: ``ceil(n / 8)`` bytes, and k values for the next link.
    Error: what is kept is exact. No other k-sparse tree is closer, and
    ``|x - decoded|^2 <= (1 - k/n) |x|^2``, per tensor or over the tree. Encoding what was decoded
    changes no bit.

    Parameters
    ----------
    fraction : float
        Share of the values to keep, in (0, 1].
    scope : str
        "tensor" for k values of each tensor, "tree" for k values of all.

    Raises
    ------
    ValueError
        Another fraction or scope.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong lengths, not k bits set, padding bits set.

    References
    ----------
    Aji & Heafield, arXiv 1704.05021; Stich et al., Sparsified SGD with Memory, arXiv 1809.07599,
    definition 2.1 and lemma A.1.
    """
    sparse.check_fraction("top_k", fraction)
    if scope not in ("tensor", "tree"):
        raise ValueError(f"top_k: scope must be 'tensor' or 'tree', got {scope!r}")

    def parts(ref: Tree) -> list[sparse.Part]:
        sizes = sparse.sizes(ref)
        return sparse.parts(
            sizes if scope == "tensor" else {"values": sum(sizes.values())}, fraction
        )

    def narrow(ref: Tree) -> Tree:
        return sparse.kept(parts(ref))

    def streams(ref: Tree) -> tuple[Stream]:
        return (groups.symbol_stream(ref, 1),)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        flat = groups.flatten(tree, ref)
        # Without their sign, floats order like their bits.
        magnitudes = flat.view(np.uint32) & np.uint32(0x7FFFFFFF)
        mask = np.empty(flat.size, np.bool_)
        for part in parts(ref):
            mask[part.values] = sparse.largest(magnitudes[part.values], part.k)
        return Wire((np.packbits(mask).tobytes(),), split(flat[mask], narrow(ref))), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        n = scalars(ref)
        bits = np.unpackbits(np.frombuffer(wire.sections[0], np.uint8)).view(np.bool_)
        mask = bits[:n]
        if bits[n:].any():
            raise WireError("top_k: the bitmap is padded with something other than zeros")
        for part in parts(ref):
            if (got := np.count_nonzero(mask[part.values])) != part.k:
                raise WireError(f"top_k: {part.name!r} keeps {got} values, expected {part.k}")
        return sparse.scatter(mask, wire.rest, parts(ref), ref)

    return Codec(stateless, encode, decode, 1, streams, terminal=False, narrow=narrow)
