"""The change since a reference that both sides hold."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import (
    Codec,
    CodecError,
    Tree,
    Wire,
    WireError,
    check_tree,
    is_finite,
    register,
    stateless,
)


@register("delta")
def delta() -> Codec:
    """Send ``x - ref`` instead of ``x``: writes nothing itself, the difference is its rest.

    Rate: 0 bits. Error: the roundings of one float32 subtraction and one addition,
    ``|decoded - x| <= 2**-23 * (|x| + |ref|)``. A difference of zero gives back ref bit for bit.

    Raises:
        CodecError: x holds NaN or Inf, or x - ref is beyond float32.
        WireError: the rest does not belong to ref, or rest + ref is beyond float32.

    Source: the change since a reproducible start, as the 4-bit LoRA entry of PFL-DocVQA sends it.
    """

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        rest = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, x in tree.items():
                # out= keeps shape () an array; a bare ufunc would return a scalar.
                rest[name] = np.subtract(x, ref[name], out=np.empty_like(x))
                if not is_finite(rest[name]):
                    raise CodecError(
                        f"{name!r}: the change since the reference holds NaN or Inf; the training"
                        " diverged: lower the learning rate or clip gradients"
                    )
        return Wire((), rest), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        if wire.sections or list(wire.rest) != list(ref):
            raise WireError("delta: the rest does not have the tensors of the reference")
        tree = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, x in wire.rest.items():
                # ref - (0 - x), not ref + x: for x == 0 only the former keeps a ref of -0.0, so
                # that an untrained client's tensors have the digest of theta0.
                out = np.subtract(np.float32(0), x, out=np.empty_like(x))
                tree[name] = np.subtract(ref[name], out, out=out)
                if not is_finite(out):
                    raise WireError(f"{name!r}: reference plus change is beyond float32")
        return tree

    return Codec(stateless, encode, decode, sections=0, streams=lambda ref: (), terminal=False)
