"""Scores of a classifier that the commonest label alone cannot earn, from its confusion matrix.

Rows of the matrix are the labels of rows, columns those that were predicted.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


def confusion(predicted: Sequence[str], true: Sequence[str], labels: Sequence[str]) -> Matrix:
    """Return how often each label was predicted for each label, int64 [labels, labels]."""
    place = {label: at for at, label in enumerate(labels)}
    found = np.zeros((len(labels), len(labels)), np.int64)
    for one, other in zip(true, predicted, strict=True):
        found[place[one], place[other]] += 1
    return found


def accuracy(matrix: Matrix) -> float:
    """Return the share of rows whose label is predicted."""
    return float(matrix.trace() / matrix.sum())


def macro_f1(matrix: Matrix) -> float:
    """Return the mean of F1 over the labels that rows have or that are predicted."""
    right, ends = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
    occurs = ends > 0
    return float(np.mean(2 * right[occurs] / ends[occurs]))


def balanced_accuracy(matrix: Matrix) -> float:
    """Return the mean over the labels that rows have of the share that is predicted."""
    rows = matrix.sum(1)
    occurs = rows > 0
    return float(np.mean(matrix.diagonal()[occurs] / rows[occurs]))


def mcc(matrix: Matrix) -> float:
    """Return Matthews' correlation coefficient of several labels, in [-1, 1].

    0 where one label alone is predicted, or all rows have the same. Gorodkin, Comparing two
    K-category assignments by a K-category correlation coefficient, 2004, eq. 8.
    """
    n, right = int(matrix.sum()), int(matrix.trace())
    true, predicted = ([int(x) for x in matrix.sum(axis)] for axis in (1, 0))
    spread = [n * n - sum(x * x for x in one) for one in (true, predicted)]
    if not all(spread):
        return 0.0
    together = right * n - sum(t * p for t, p in zip(true, predicted, strict=True))
    return together / math.sqrt(spread[0] * spread[1])


METRICS = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
}


def by_label(matrix: Matrix, labels: Sequence[str]) -> list[dict[str, str | int | float]]:
    """Return precision, recall, F1 and number of rows of each label; 0 where there is nothing."""
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)

    def share(part: int, whole: int) -> float:
        return float(part / whole) if whole else 0.0

    return [
        {
            "label": label,
            "precision": share(right[k], predicted[k]),
            "recall": share(right[k], true[k]),
            "f1": share(2 * right[k], true[k] + predicted[k]),
            "rows": int(true[k]),
        }
        for k, label in enumerate(labels)
    ]
