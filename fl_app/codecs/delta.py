"""The change since a reference that both sides hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, CodecError, Wire, WireError, stateless
from fl_app.codecs.checks import check_tree, is_finite
from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.registry import register
from fl_app.tree import Tree, scalars, split

F32 = NDArray[np.float32]


@register("delta")
def delta() -> Codec:
    """Send ``x - ref`` instead of ``x``: writes nothing itself, the difference is its rest.

    Rate: 0 bits. Error: the roundings of one float32 subtraction and one addition,
    ``|decoded - x| <= 2**-23 * (|x| + |ref|)``. A difference of zero gives back ref bit for bit.
    decode adds in place: the rest, which the next link has just decoded, becomes the result.

    Raises
    ------
    CodecError
        In encode: x holds NaN or Inf, or x - ref is beyond float32.
    WireError
        In decode: the rest does not belong to ref, or rest + ref is beyond float32.

    References
    ----------
    The change since a reproducible start, as the 4-bit LoRA entry of PFL-DocVQA sends it.
    """

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        rest = split(np.empty(scalars(ref), np.float32), ref)
        for name, x in tree.items():
            if not _minus(x.reshape(-1), ref[name].reshape(-1), rest[name].reshape(-1)):
                raise CodecError(
                    f"{name!r}: the change since the reference holds NaN or Inf; the training"
                    " diverged: lower the learning rate or clip gradients"
                )
        return Wire((), rest), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        if wire.sections or list(wire.rest) != list(ref):
            raise WireError("delta: the rest does not have the tensors of the reference")
        for name, x in wire.rest.items():
            if not _plus(ref[name].reshape(-1), x.reshape(-1)):
                raise WireError(f"{name!r}: reference plus change is beyond float32")
        return dict(wire.rest)

    return Codec(stateless, encode, decode, sections=0, streams=lambda ref: (), terminal=False)


# --- the two sums, in one pass with the test for NaN and Inf --------------------------------------

_ZERO = np.float32(0)


def minus_numpy(x: F32, ref: F32, out: F32) -> bool:
    """Write x - ref to out; return whether it is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return is_finite(np.subtract(x, ref, out=out))


def plus_numpy(ref: F32, x: F32) -> bool:
    """Write ref + x to x; return whether it is finite."""
    # ref - (0 - x), not ref + x: for x == 0 only the former keeps a ref of -0.0, so that an
    # untrained client's tensors have the digest of theta0.
    with np.errstate(over="ignore", invalid="ignore"):
        return is_finite(np.subtract(ref, np.subtract(_ZERO, x, out=x), out=x))


@jit
def _minus(x, ref, out):
    wrong = False
    for i in range(out.size):
        y = x[i] - ref[i]
        out[i] = y
        wrong |= y - y != _ZERO  # of NaN and Inf alone
    return not wrong


@jit
def _plus(ref, x):
    wrong = False
    for i in range(x.size):
        y = ref[i] - (_ZERO - x[i])
        x[i] = y
        wrong |= y - y != _ZERO
    return not wrong


if numba is None:
    _minus, _plus = minus_numpy, plus_numpy
