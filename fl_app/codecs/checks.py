"""Checks that codecs share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, CodecError, Stream, Wire, WireError
from fl_app.tree import Tree


def check_terminal(wrapper: str, inner: Codec) -> None:
    """Refuse to wrap a codec that leaves a rest: what is lost after it would not be seen.

    Raises
    ------
    ValueError
        If ``inner`` is such a codec, or no codec; names ``wrapper``.
    """
    if not isinstance(inner, Codec):
        raise ValueError(f"{wrapper}: inner must be a codec, got {inner!r}")
    if not inner.terminal:
        raise ValueError(
            f"{wrapper}: {inner.spec['id']!r} leaves values to encode; wrap the whole chain,"
            " as in {id: chain, links: [{id: top_k}, {id: nf4}]}"
        )


def check_tree(tree: Tree, ref: Tree) -> None:
    """Refuse a Tree to encode whose names, order, shapes, dtype or layout are not those of ref.

    Raises
    ------
    CodecError
        Names the first tensor that differs, and how to mend it.
    """
    if list(tree) != list(ref):
        missing = [name for name in ref if name not in tree]
        extra = [name for name in tree if name not in ref]
        raise CodecError(
            "the tensors are not those of the reference, in its order: "
            f"missing {missing[:3]}, unknown {extra[:3]}"
            + ("" if missing or extra else ", only the order differs")
            + "; build the tree from the reference: {name: values[name] for name in ref}"
        )
    for name, x in tree.items():
        if not isinstance(x, np.ndarray):
            raise CodecError(
                f"{name!r} is a {type(x).__name__}, not a numpy array;"
                " np.asarray(x), or from torch t.detach().cpu().float().numpy()"
            )
        if x.dtype != np.float32:
            raise CodecError(f"{name!r} has dtype {x.dtype}, not float32; use x.astype('float32')")
        if x.shape != ref[name].shape:
            raise CodecError(
                f"{name!r} has shape {x.shape}, the reference has {ref[name].shape};"
                " use the same adapter on both sides"
            )
        if not x.flags.c_contiguous:
            raise CodecError(f"{name!r} is not C-contiguous; use np.asarray(x, order='C')")


def check_finite(tree: Tree) -> None:
    """Refuse NaN and Inf.

    Raises
    ------
    CodecError
        Names the first tensor that holds one.
    """
    for name, x in tree.items():
        if not is_finite(x):
            raise not_finite(name)


def check_sections(wire: Wire, streams: Sequence[Stream]) -> None:
    """Refuse sections whose number or lengths are not those that the reference asks for.

    Raises
    ------
    WireError
        Names the first section that differs.
    """
    if len(wire.sections) != len(streams):
        raise WireError(f"{len(wire.sections)} sections, expected {len(streams)}")
    for i, (section, stream) in enumerate(zip(wire.sections, streams, strict=True)):
        if len(section) > stream.nbytes or not (stream.variable or len(section) == stream.nbytes):
            most = "at most " if stream.variable else ""
            raise WireError(
                f"section {i} has {len(section)} bytes, the reference asks for {most}"
                f"{stream.nbytes}"
            )


def is_finite(x: NDArray[np.floating[Any]]) -> bool:
    """Return whether x holds neither NaN nor Inf: two reductions, no temporary of its size."""
    return x.size == 0 or (
        math.isfinite(np.minimum.reduce(x, None)) and math.isfinite(np.maximum.reduce(x, None))
    )


def not_finite(name: str) -> CodecError:
    """Return the error of a tensor with NaN or Inf."""
    return CodecError(
        f"{name!r} holds NaN or Inf; the training diverged: lower the learning rate or clip"
        " gradients, and do not send this update",
        kind="diverged",
    )
