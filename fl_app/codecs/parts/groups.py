"""Values in groups that share a scale: the whole tree, a tensor, or a part of a tensor."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fl_app.codecs.base import Stream, WireError
from fl_app.codecs.checks import check_finite, check_tree, is_finite
from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.streams.bits import unpack
from fl_app.tree import Tree, scalars

Scope = Literal["tree", "tensor"]

CHUNK = 1 << 13
"""Values worked on at a time, so that the temporaries are small and stay in the cache."""


def check_scope(codec: str, scope: object) -> None:
    """Refuse a scope that is not "tree" or "tensor".

    Raises
    ------
    ValueError
        Names the codec.
    """
    if scope not in ("tree", "tensor"):
        raise ValueError(f'{codec}: scope must be "tree" or "tensor", got {scope!r}')


def sizes(ref: Tree, scope: str | int) -> NDArray[np.intp]:
    """Return the number of values of each group, in the order of the tensors; none is empty.

    Parameters
    ----------
    scope : str or int
        "tree", "tensor", or a number of values: every tensor is then cut into groups of that size,
        the last of which may be shorter.
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
    """Return the range of each group among all values of a tree."""
    ends = np.cumsum([0, *sizes(ref, scope)]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def flatten(tree: Tree, ref: Tree) -> NDArray[np.float32]:
    """Check a tree that is to be encoded and return all its values, tensor by tensor, a copy.

    Raises
    ------
    CodecError
        The tree does not fit ref, or holds NaN or Inf.
    """
    check_tree(tree, ref)
    found = concatenate(tree)
    if not is_finite(found):
        check_finite(tree)  # names the tensor
    return found


def concatenate(tree: Tree) -> NDArray[np.float32]:
    """Return all values of a tree, tensor by tensor, a copy."""
    return np.concatenate([np.empty(0, np.float32), *(x.reshape(-1) for x in tree.values())])


def read_scales(section: bytes, dtype: DTypeLike = "<f4") -> NDArray[np.float32]:
    """Return the scales of a section of floats of ``dtype``.

    Raises
    ------
    WireError
        One is negative, NaN or Inf.
    """
    infinity = np.array(np.inf, dtype)
    bits = f"<u{infinity.itemsize}"
    # As unsigned integers everything from +Inf on is +Inf, NaN or has a sign.
    if np.frombuffer(section, bits).max(initial=0) >= infinity.view(bits):
        raise WireError("a scale is negative, NaN or Inf")
    return np.frombuffer(section, dtype).astype(np.float32, copy=False)


def read_symbols(section: bytes, count: int, bits: int, most: int) -> NDArray[np.uint8]:
    """Return the ``count`` symbols of a section.

    Raises
    ------
    WireError
        One is above ``most``, or the padding is not zero.
    """
    symbols = unpack(section, bits)
    if symbols[count:].any():
        raise WireError("the symbols are padded with something other than zeros")
    symbols = symbols[:count]
    if most < 2**bits - 1 and count and symbols.max() > most:
        raise WireError(f"a symbol above {most}")
    return symbols


def look_up(
    table: NDArray[np.float32], symbols: NDArray[np.uint8], out: NDArray[np.float32]
) -> None:
    """Write the value of each symbol to out; symbols beyond the table have its last value."""
    _look_up(np.concatenate([table, np.full(256 - table.size, table[-1])]), symbols, out)


def look_up_numpy(
    table: NDArray[np.float32], symbols: NDArray[np.uint8], out: NDArray[np.float32]
) -> None:
    """Look up in chunks: numpy's indices take 8 bytes each."""
    for i in range(0, out.size, CHUNK):
        np.take(table, symbols[i : i + CHUNK], out=out[i : i + CHUNK], mode="clip")


@jit
def _look_up(table, symbols, out):
    for i in range(out.size):
        out[i] = table[symbols[i]]


if numba is None:
    _look_up = look_up_numpy


def symbol_stream(ref: Tree, bits: int, levels: bool = False) -> Stream:
    """Return the stream of one symbol per value, which may be the numbers of levels."""
    return Stream(bits, scalars(ref), tensors=tuple(ref.values()) if levels else ())
