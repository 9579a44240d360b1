"""Centroids of values: Lloyd's rounds, and the nearest one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts import groups


def descend(
    x: NDArray[np.float64], begin: NDArray[np.float64], rounds: int, pinned: int | None = None
) -> NDArray[np.float64]:
    """Return ascending centroids after at most ``rounds`` rounds of Lloyd's algorithm.

    A cell is a run of the sorted values, and its sum a difference of prefix sums. A cell without
    values keeps its centroid.

    Parameters
    ----------
    x : array
        The values, ascending.
    begin : array
        The centroids to begin with, ascending.
    rounds : int
        It ends earlier when no value changes its cell.
    pinned : int or None
        The number of a centroid that stays where it begins.
    """
    sums = np.concatenate([[0.0], np.cumsum(x)])
    centroids, edges = begin.copy(), None
    for _ in range(rounds):
        middles = centroids[:-1] / 2 + centroids[1:] / 2
        new = np.concatenate([[0], np.searchsorted(x, middles), [x.size]])
        if edges is not None and np.array_equal(new, edges):
            break
        edges, counts = new, np.diff(new)
        moved = counts > 0
        if pinned is not None:
            moved[pinned] = False
        first, last = edges[:-1][moved], edges[1:][moved] - 1
        means = np.diff(sums[edges])[moved] / counts[moved]
        # The rounding of a sum of large values may be more than a small cell is wide.
        centroids[moved] = np.clip(means, x[first], x[last])
    return centroids


def nearest(x: NDArray[np.float32], book: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the number of each value's nearest centroid, at a tie the lower one.

    It is the number of midpoints below the value: one comparison each, without branches, is faster
    than a binary search.
    """
    middles = (book[:-1].astype(np.float64) / 2 + book[1:].astype(np.float64) / 2).astype(
        np.float32
    )
    symbols = np.zeros(x.size, np.uint8)
    for i in range(0, x.size, groups.CHUNK):
        part, to = x[i : i + groups.CHUNK], symbols[i : i + groups.CHUNK]
        for middle in middles:
            to += part > middle
    return symbols
