"""Digests of a Tree: how two sides find out that they start from the same values."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from fl_app.codecs.base import Tree

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
