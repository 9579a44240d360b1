"""Clusters of what clients sent: k-means, and how many clusters there are."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

STARTS = 10  # of k-means
Points = NDArray[np.float64]


def clusters(points: Points, n: int, seed: int) -> list[int]:
    """Return the cluster of every point: k-means, of `STARTS` starts the one of least inertia.

    The order of the points does not matter. Clusters are numbered by their first point, and none is
    empty; there are fewer than ``n`` where the points are no more, each alone, or coincide.

    Parameters
    ----------
    points : array [points, d]
        What is clustered.
    n : int
        Clusters at most.
    seed : int
        Of the starts.
    """
    if len(points) <= n:
        found = [*range(len(points))]
    else:
        distinct, places = np.unique(points, axis=0, return_inverse=True)
        count = np.bincount(places.ravel())
        if len(distinct) <= n:
            found = places.ravel().tolist()
        else:
            ordered = np.repeat(distinct, count, axis=0)
            best = min(
                (kmeans2(ordered, n, minit="++", rng=np.random.default_rng([seed, start]))
                 for start in range(STARTS)),
                key=lambda made: _inertia(ordered, *made),
            )  # fmt: skip
            first = np.cumsum(count) - count
            found = best[1][first][places.ravel()].tolist()
    names = {old: new for new, old in enumerate(dict.fromkeys(found))}
    return [names[one] for one in found]


def _inertia(points: Points, centers: Points, labels: NDArray[np.intp]) -> tuple[int, float]:
    """Return how many clusters are empty, and the squared distances."""
    return len(centers) - len({*labels.tolist()}), float(((points - centers[labels]) ** 2).sum())


def silhouette(points: Points, labels: list[int]) -> float:
    """Return the mean silhouette (Rousseeuw 1987), 0 of a point that is alone in its cluster."""
    apart, of = cdist(points, points), np.array(labels)
    sums = np.stack([apart[:, of == c].sum(1) for c in range(of.max() + 1)], axis=1)
    sizes = np.bincount(of)
    own = sizes[of]
    near = sums[np.arange(len(of)), of] / np.maximum(own - 1, 1)
    others = np.where(np.arange(len(sizes)) == of[:, None], np.inf, sums / sizes)
    next_one = others.min(1)
    scores = (next_one - near) / np.maximum(np.maximum(next_one, near), np.finfo(float).tiny)
    return float(np.where(own == 1, 0.0, scores).mean())


def best_clusters(points: Points, most: int, seed: int) -> list[int]:
    """Return the clusters of the largest mean silhouette, of 2 to ``most``; of two points, each."""
    options = [clusters(points, n, seed) for n in range(2, min(most, len(points) - 1) + 1)]
    known = [one for one in options if max(one) > 0]
    return max(known, key=lambda one: silhouette(points, one), default=[*range(len(points))])
