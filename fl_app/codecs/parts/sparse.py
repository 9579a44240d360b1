"""Shared by the sparsifying links: which values they keep, and how these go back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.groups import concatenate
from fl_app.tree import Tree, split

Mask = NDArray[np.bool_]


class Part(NamedTuple):
    """``k`` values to keep out of ``values``, a range of the concatenated tree."""

    name: str
    values: slice
    k: int


def check_fraction(codec_id: str, fraction: float) -> None:
    """Refuse what is not a share of the values.

    Raises
    ------
    ValueError
        Not a number in (0, 1].
    """
    if type(fraction) not in (int, float) or not 0 < fraction <= 1:
        raise ValueError(f"{codec_id}: fraction must be in (0, 1], got {fraction!r}")


def count(fraction: float, n: int) -> int:
    """Return ``max(1, fraction * n)`` rounded, halves to the even integer; 0 for n = 0."""
    return max(1, round(fraction * n)) if n else 0


def parts(sizes: dict[str, int], fraction: float) -> list[Part]:
    """Return one part per entry of ``sizes``, one after the other."""
    found, start = [], 0
    for name, n in sizes.items():
        found.append(Part(name, slice(start, start + n), count(fraction, n)))
        start += n
    return found


def sizes(ref: Tree) -> dict[str, int]:
    """Return the number of values of each tensor."""
    return {name: r.size for name, r in ref.items()}


def kept(parts: list[Part]) -> Tree:
    """Return the names and shapes of the kept values: ``narrow`` of a sparsifying link."""
    return {part.name: np.zeros(part.k, np.float32) for part in parts}


def largest(keys: NDArray[np.uint32], k: int) -> Mask:
    """Return a mask of the k largest keys, among equal ones of those of lowest index; O(n)."""
    if k == 0:
        return np.zeros(keys.size, np.bool_)
    threshold = np.partition(keys, keys.size - k)[keys.size - k]
    mask = keys > threshold
    ties = np.flatnonzero(keys == threshold)
    mask[ties[: k - np.count_nonzero(mask)]] = True
    return mask


def scatter(mask: Mask, rest: Tree, parts: list[Part], ref: Tree) -> Tree:
    """Return the kept values where ``mask`` is True, zeros elsewhere.

    Raises
    ------
    WireError
        The rest has other tensors than `kept`.
    """
    if [(name, x.shape) for name, x in rest.items()] != [(p.name, (p.k,)) for p in parts]:
        raise WireError("the rest does not have as many values as the reference asks for")
    flat = np.zeros(mask.size, np.float32)
    flat[mask] = concatenate(rest)
    return split(flat, ref)
