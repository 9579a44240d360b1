"""Values as floats: fp32 (exact) and fp16."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, CodecError, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_finite, check_sections, check_tree, is_finite, not_finite
from fl_app.codecs.parts.half import from_half, to_half
from fl_app.codecs.registry import register
from fl_app.tree import Tree, scalars, split

# Half way from the largest value of fp16 to the next power of two, which rounds to Inf.
_FP16_LIMIT = 65_520.0
_FP16_INF = 0x7C00


@register("fp32")
def fp32() -> Codec:
    """Send every value as it is: one section of little-endian float32, tensors in order.

    Rate: ``4 n`` bytes. Error: none, bit for bit (also -0.0 and denormals).

    Raises
    ------
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong length, NaN or Inf.
    """

    def streams(ref: Tree) -> tuple[Stream]:
        return (Stream(8, 4 * scalars(ref)),)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        check_finite(tree)
        return Wire((b"".join([x.astype("<f4", copy=False).data for x in tree.values()]),)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        flat = np.array(np.frombuffer(wire.sections[0], "<f4"), np.float32)
        if not is_finite(flat):
            raise WireError("the values hold NaN or Inf")
        return split(flat, ref)

    return Codec(stateless, encode, decode, 1, streams)


@register("fp16")
def fp16() -> Codec:
    """Send every value as little-endian IEEE half precision, rounded to nearest even; one section.

    Rate: ``2 n`` bytes. Error: ``max(2**-11 |x|, 2**-25)`` per value.

    Raises
    ------
    CodecError
        In encode: NaN or Inf, or a value that rounds beyond 65,504, fp16's largest.
    WireError
        In decode: wrong length, NaN or Inf.
    """

    def streams(ref: Tree) -> tuple[Stream]:
        return (Stream(8, 2 * scalars(ref)),)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        halves, start = np.empty(scalars(ref), np.uint16), 0
        for name, x in tree.items():
            if _largest(name, x) >= _FP16_LIMIT:
                raise CodecError(
                    f"{name!r} has values beyond fp16's range (65,504); use codec fp32, or delta"
                    " before fp16"
                )
            to_half(x.reshape(-1), halves[start : start + x.size])
            start += x.size
        return Wire((halves.astype("<u2", copy=False).tobytes(),)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        halves = np.frombuffer(wire.sections[0], "<u2").astype(np.uint16, copy=False)
        if (halves & 0x7FFF).max(initial=0) >= _FP16_INF:
            raise WireError("the values hold NaN or Inf")
        flat = np.empty(halves.size, np.float32)
        from_half(halves, flat)
        return split(flat, ref)

    return Codec(stateless, encode, decode, 1, streams)


def _largest(name: str, x: NDArray[np.float32]) -> float:
    """Return the largest magnitude; refuse NaN and Inf, which both reductions keep."""
    most = max(float(x.max()), -float(x.min())) if x.size else 0.0
    if not math.isfinite(most):
        raise not_finite(name)
    return most
