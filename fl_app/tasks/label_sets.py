"""Scores of predictions that are sets of labels: rows and columns are rows and labels."""

import numpy as np
from numpy.typing import NDArray

Sets = NDArray[np.bool_]
METRICS = ("micro_f1", "macro_f1", "exact_match")


def scores(predicted: Sets, true: Sets) -> dict[str, float]:
    """Return ``METRICS`` of label sets, [rows, labels].

    Micro-F1 is that of all decisions together, 1 where nothing was to be found and nothing is
    predicted. Macro-F1 is the mean over the labels that rows have or that are predicted. An exact
    match is a row with all its labels and no other.
    """
    right = (predicted & true).sum(0)
    ends = predicted.sum(0) + true.sum(0)
    occurs = ends > 0
    some = bool(occurs.any())
    return {
        "micro_f1": float(2 * right.sum() / ends.sum()) if some else 1.0,
        "macro_f1": float(np.mean(2 * right[occurs] / ends[occurs])) if some else 1.0,
        "exact_match": float((predicted == true).all(1).mean()),
    }
