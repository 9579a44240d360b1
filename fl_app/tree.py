"""Digests of a Tree: how two sides find out that they start from the same values."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
from numpy.typing import NDArray

pass

__all__ = ["Tree", "chained", "digest", "manifest"]


def digest(tree: Tree) -> str:
    """SHA-256, in hex, over names, shapes and little-endian float32 bytes, in the tree's order.

    Names and shapes go in with their lengths, so that no two trees give the same input. The bits
    count, not the values: +0.0 and -0.0 differ.

    Raises:
        ValueError: a tensor is not float32.
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


def manifest(theta0: Tree) -> bytes:
    """The 8 bytes that stand for theta0 in every frame: the first of its digest."""
    return bytes.fromhex(digest(theta0))[:8]


def chained(before: bytes, patch: Tree, theta0: Tree) -> bytes:
    """The manifest of a model whose frozen weights were patched: of all patches and theta0."""
    return hashlib.sha256(before + bytes.fromhex(digest(patch) + digest(theta0))).digest()[:8]


Tree = dict[str, NDArray[np.float32]]
"""Flat, ordered mapping name -> C-contiguous float32 array. Both sides know names and shapes."""


def zeros(ref: Tree) -> Tree:
    """Return a Tree of zeros with the names and shapes of ref."""
    return {name: np.zeros_like(r) for name, r in ref.items()}


def split(flat: NDArray[np.float32], ref: Tree) -> Tree:
    """Cut a flat buffer of all values into views with the names and shapes of ref."""
    tree, start = {}, 0
    for name, r in ref.items():
        tree[name] = flat[start : start + r.size].reshape(r.shape)
        start += r.size
    return tree


def scalars(tree: Tree) -> int:
    """Return the number of values in ``tree``."""
    return sum(values.size for values in tree.values())


def rms(tree: Tree, start: Tree) -> float:
    """Return the root mean square of ``tree - start``, over all values."""
    squares = 0.0
    for name, values in tree.items():
        change = (values - start[name].astype(np.float64)).ravel()
        squares += float(change @ change)
    return math.sqrt(squares / max(1, scalars(tree)))
