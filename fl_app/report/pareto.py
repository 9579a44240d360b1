"""The Pareto front: points that no other point beats in both score and bytes."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) that no other point dominates, by cost.

    A point dominates another one if its cost is not higher, its score not lower, and one of them
    is better. Of equal points, either all are on the front or none.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found: list[int] = []
    for i in order:
        if not found or points[i][1] > points[found[-1]][1] or points[i] == points[found[-1]]:
            found.append(i)
    return found
