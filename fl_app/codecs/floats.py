"""Values as floats: fp32 (exact) and fp16."""

from __future__ import annotations

import math

import numpy as np

from fl_app.codecs.base import (
    Codec,
    CodecError,
    Stream,
    Tree,
    Wire,
    WireError,
    check_sections,
    check_tree,
    is_finite,
    not_finite,
    register,
    split,
    stateless,
)


@register("fp32")
def fp32() -> Codec:
    """Every value as it is: one section of little-endian float32, tensors in order.

    Rate: ``4 n`` bytes. Error: none, bit for bit (also -0.0 and denormals).

    Raises:
        CodecError: NaN or Inf.
        WireError: wrong length, NaN or Inf.
    """
    return _cast(np.dtype("<f4"))


@register("fp16")
def fp16() -> Codec:
    """Every value as little-endian IEEE half precision, round to nearest even; one section.

    Rate: ``2 n`` bytes. Error: ``max(2**-11 |x|, 2**-25)`` per value.

    Raises:
        CodecError: NaN or Inf, or a value that rounds beyond 65,504, fp16's largest.
        WireError: wrong length, NaN or Inf.
    """
    return _cast(np.dtype("<f2"))


def _cast(dtype: np.dtype[np.floating]) -> Codec:
    # Half way from the largest value of fp16 to the next power of two, which rounds to Inf; every
    # finite float32 is below fp32's.
    limit = 65_520.0 if dtype.itemsize == 2 else math.inf

    def streams(ref: Tree) -> tuple[Stream]:
        return (Stream(8, dtype.itemsize * sum(r.size for r in ref.values())),)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        parts = []
        for name, x in tree.items():
            if not is_finite(x):
                raise not_finite(name)
            if x.size and max(x.max(), -x.min()) >= limit:
                raise CodecError(
                    f"{name!r} has values beyond fp16's range (65,504); use codec fp32, or delta"
                    " before fp16"
                )
            with np.errstate(under="ignore"):
                parts.append(x.astype(dtype, copy=False).data)
        return Wire((b"".join(parts),)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        flat = np.frombuffer(wire.sections[0], dtype).astype(np.float32)
        if not is_finite(flat):
            raise WireError("the values hold NaN or Inf")
        return split(flat, ref)

    return Codec(stateless, encode, decode, 1, streams)
