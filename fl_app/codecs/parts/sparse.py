"""What the sparsifying links share: how many values they keep, which, and how these go back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.checks import is_finite, not_finite
from fl_app.tree import Tree, split

Mask = NDArray[np.bool_]


class Part(NamedTuple):
    """``k`` values to keep out of ``values``, a range of the concatenated tree."""

    name: str
    values: slice
    k: int


def check_fraction(codec_id: str, fraction: float) -> None:
    """Refuse what is not a share of the values.

    Raises:
        ValueError: not a number in (0, 1].
    """
    if type(fraction) not in (int, float) or not 0 < fraction <= 1:
        raise ValueError(f"{codec_id}: fraction must be in (0, 1], got {fraction!r}")


def count(fraction: float, n: int) -> int:
    """``max(1, fraction * n)`` to the nearest integer, halves to the even one; 0 for n = 0."""
    return max(1, round(fraction * n)) if n else 0


def parts(sizes: dict[str, int], fraction: float) -> list[Part]:
    """One part per entry of ``sizes``, in a row."""
    found, start = [], 0
    for name, n in sizes.items():
        found.append(Part(name, slice(start, start + n), count(fraction, n)))
        start += n
    return found


def sizes(ref: Tree) -> dict[str, int]:
    """Values per tensor."""
    return {name: r.size for name, r in ref.items()}


def kept(parts: list[Part]) -> Tree:
    """Names and shapes of what is kept: ``narrow`` of a sparsifying link."""
    return {part.name: np.zeros(part.k, np.float32) for part in parts}


def concatenate(tree: Tree) -> NDArray[np.float32]:
    """All values of the tree in a row, a copy."""
    return np.concatenate([np.empty(0, np.float32), *(x.reshape(-1) for x in tree.values())])


def check_finite(tree: Tree) -> None:
    """Refuse NaN and Inf.

    Raises:
        CodecError: naming the first tensor that holds one.
    """
    for name, x in tree.items():
        if not is_finite(x):
            raise not_finite(name)


def largest(keys: NDArray[np.uint32], k: int) -> Mask:
    """True for the k largest keys, among equal ones for those of lowest index; O(n)."""
    if k == 0:
        return np.zeros(keys.size, np.bool_)
    threshold = np.partition(keys, keys.size - k)[keys.size - k]
    mask = keys > threshold
    ties = np.flatnonzero(keys == threshold)
    mask[ties[: k - np.count_nonzero(mask)]] = True
    return mask


def scatter(mask: Mask, rest: Tree, parts: list[Part], ref: Tree) -> Tree:
    """Put the kept values back where ``mask`` is True, zeros elsewhere.

    Raises:
        WireError: the rest has other tensors than `kept`.
    """
    if [(name, x.shape) for name, x in rest.items()] != [(p.name, (p.k,)) for p in parts]:
        raise WireError("the rest does not have as many values as the reference asks for")
    flat = np.zeros(mask.size, np.float32)
    flat[mask] = concatenate(rest)
    return split(flat, ref)
