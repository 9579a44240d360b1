"""Checks that codecs share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import CodecError, Stream, Wire, WireError
from fl_app.tree import Tree


def check_tree(tree: Tree, ref: Tree) -> None:
    """Refuse a Tree to encode whose names, order, shapes, dtype or layout are not those of ref.

    Raises:
        CodecError: naming the first tensor that differs and how to mend it.
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


def check_sections(wire: Wire, streams: Sequence[Stream]) -> None:
    """Refuse sections that are not as many and as long as the reference asks for.

    Raises:
        WireError: naming the first section that differs.
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
    """True when x holds neither NaN nor Inf. Two reductions, no temporary of the size of x."""
    return x.size == 0 or (
        math.isfinite(np.minimum.reduce(x, None)) and math.isfinite(np.maximum.reduce(x, None))
    )


def not_finite(name: str) -> CodecError:
    """The error for a tensor with NaN or Inf."""
    return CodecError(
        f"{name!r} holds NaN or Inf; the training diverged: lower the learning rate or clip"
        " gradients, and do not send this update",
        kind="diverged",
    )
