"""Values in groups that share a scale: the whole tree, a tensor, or a run of values of a tensor."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Stream, WireError
from fl_app.codecs.checks import check_tree, is_finite, not_finite
from fl_app.codecs.streams.bits import unpack
from fl_app.tree import Tree

Scope = Literal["tree", "tensor"]

CHUNK = 1 << 13
"""Values worked on at a time, so that the temporaries are small and stay in the cache."""


def check_scope(codec: str, scope: object) -> None:
    """Refuse a scope that is not "tree" or "tensor".

    Raises:
        ValueError: naming the codec.
    """
    if scope not in ("tree", "tensor"):
        raise ValueError(f'{codec}: scope must be "tree" or "tensor", got {scope!r}')


def sizes(ref: Tree, scope: str | int) -> NDArray[np.intp]:
    """Return how many values each group has, in the order of the tensors; none is empty.

    With an int as the scope, every tensor is cut into runs of that many values, the last of which
    may be shorter.
    """
    tensors = [r.size for r in ref.values()]
    if scope == "tree":
        found = [sum(tensors)]
    elif scope == "tensor":
        found = tensors
    else:
        length = int(scope)
        runs = [np.full(-(-n // length), length, np.intp) for n in tensors if n]
        for run, n in zip(runs, filter(None, tensors), strict=True):
            run[-1] = n - length * (run.size - 1)
        return np.concatenate(runs) if runs else np.empty(0, np.intp)
    return np.array([n for n in found if n], np.intp)


def slices(ref: Tree, scope: Scope) -> list[slice]:
    """Return where each group is among all values of a tree."""
    ends = np.cumsum([0, *sizes(ref, scope)]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def flatten(tree: Tree, ref: Tree) -> NDArray[np.float32]:
    """Return all values of a tree that is to be encoded, tensor by tensor.

    Raises:
        CodecError: the tree does not fit ref, or holds NaN or Inf.
    """
    check_tree(tree, ref)
    for name, x in tree.items():
        if not is_finite(x):
            raise not_finite(name)
    return np.concatenate([np.empty(0, np.float32), *(x.reshape(-1) for x in tree.values())])


def read_scales(section: bytes) -> NDArray[np.float32]:
    """Return the scales of a section.

    Raises:
        WireError: one is negative, NaN or Inf.
    """
    scales = np.frombuffer(section, "<f4").astype(np.float32, copy=False)
    # As unsigned bits everything from +Inf on is +Inf, NaN or has a sign.
    if scales.size and scales.view(np.uint32).max() >= 0x7F800000:
        raise WireError("a scale is negative, NaN or Inf")
    return scales


def read_symbols(section: bytes, count: int, bits: int, most: int) -> NDArray[np.uint8]:
    """Return the ``count`` symbols of a section.

    Raises:
        WireError: one is above ``most``, or the padding is not zero.
    """
    symbols = unpack(section, bits)
    if symbols[count:].any():
        raise WireError("the symbols are padded with something else than zeros")
    symbols = symbols[:count]
    if most < 2**bits - 1 and count and symbols.max() > most:
        raise WireError(f"a symbol above {most}")
    return symbols


def look_up(
    table: NDArray[np.float32], symbols: NDArray[np.uint8], out: NDArray[np.float32]
) -> None:
    """Write the value of each symbol to out, in chunks, as numpy's indices are 8 bytes each."""
    for i in range(0, out.size, CHUNK):
        np.take(table, symbols[i : i + CHUNK], out=out[i : i + CHUNK], mode="clip")


def symbol_stream(ref: Tree, bits: int) -> Stream:
    """Return the stream of one symbol per value."""
    return Stream(bits, sum(r.size for r in ref.values()))
