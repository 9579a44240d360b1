"""The Tree: named float32 arrays, their arithmetic and their digests.

By its digest two sides find out whether they start from the same values.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = dict[str, NDArray[np.float32]]
"""Flat, ordered mapping name -> C-contiguous float32 array. Both sides know names and shapes."""


def digest(tree: Tree) -> str:
    """Return the SHA-256 of a Tree, in hex.

    It covers names, shapes and little-endian float32 bytes, in the Tree's order. Names and shapes
    are preceded by their lengths, so that no two Trees give the same input. It depends on bits,
    not on values: +0.0 and -0.0 differ.

    Raises
    ------
    ValueError
        If a tensor is not float32.
    """
    sha = hashlib.sha256()
    for name, x in tree.items():
        if x.dtype != np.float32:
            raise ValueError(f"{name!r} has dtype {x.dtype}, not float32")
        raw = name.encode()
        sha.update(struct.pack(f"<II{x.ndim}Q", len(raw), x.ndim, *x.shape))
        sha.update(raw)
        sha.update(x.astype("<f4", order="C", copy=False).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def manifest(theta0: Tree, fixed: bytes = b"") -> bytes:
    """Return the 8 bytes that identify the start of a run in every frame.

    They are the first of theta0's digest; of its and the digest ``fixed``, where something is drawn
    that is not trained.
    """
    start = bytes.fromhex(digest(theta0))
    return (hashlib.sha256(start + fixed).digest() if fixed else start)[:8]


def chained(before: bytes, patch: Tree, theta0: Tree) -> bytes:
    """Return the manifest of a model whose frozen weights were just patched, 8 bytes.

    Parameters
    ----------
    before : bytes
        The manifest before the patch; through it the result depends on all earlier patches.
    patch : Tree
        The patch.
    theta0 : Tree
        The start of the trained tensors after the patch.
    """
    return hashlib.sha256(before + bytes.fromhex(digest(patch) + digest(theta0))).digest()[:8]


def zeros(ref: Tree) -> Tree:
    """Return a Tree of zeros with the names and shapes of ``ref``."""
    return {name: np.zeros_like(r) for name, r in ref.items()}


def split(flat: NDArray[np.float32], ref: Tree) -> Tree:
    """Return views of a flat buffer of all values, with the names and shapes of ``ref``."""
    tree, start = {}, 0
    for name, r in ref.items():
        tree[name] = flat[start : start + r.size].reshape(r.shape)
        start += r.size
    return tree


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays with ``prefix`` before each name."""
    return {f"{prefix}{name}": x for name, x in arrays.items()}


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with ``prefix``, without it: undo `under`."""
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def scalars(tree: Tree) -> int:
    """Return the number of values in ``tree``."""
    return sum(values.size for values in tree.values())


def same_bits(one: Tree, other: Tree) -> bool:
    """Tell whether two Trees have the same names, shapes and bits: +0.0 and -0.0 differ."""
    return [*one] == [*other] and all(
        x.shape == other[name].shape
        and np.array_equal(x.view(np.uint32), other[name].view(np.uint32))
        for name, x in one.items()
    )


def rms(tree: Tree, start: Tree) -> float:
    """Return the root mean square of ``tree - start``, over all values."""
    squares = 0.0
    for name, values in tree.items():
        change = (values - start[name].astype(np.float64)).ravel()
        squares += float(change @ change)
    return math.sqrt(squares / max(1, scalars(tree)))
