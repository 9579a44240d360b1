"""Regression: a number for a text or a pair of texts, such as how similar two sentences are."""

import math
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, check_predictions
from fl_app.tasks.metrics import MOST
from fl_app.tasks.text_classifier import TextClassifier

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


LARGEST = float(np.finfo(np.float32).max)  # what a model can be taught
Values = NDArray[np.float64]


def number(value: Any) -> float | None:
    """Return the finite number that a value is, or that a text spells; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) <= LARGEST else None


def scores(said: Values, true: Values) -> dict[str, float]:
    """Return the scores of predicted numbers, see `Regression.score`."""
    # Imported where they are used: they take half a second.
    from scipy.stats import pearsonr, spearmanr

    found = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of numbers that are all the same
        for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):
            value = float(correlation(said, true).statistic) if len(true) > 1 else math.nan
            found[name] = min(max(value, -1.0), 1.0) if math.isfinite(value) else 0.0
        error = float(np.mean(np.square(said - true)))
    return {**found, "mse": error if error < MOST else MOST}


class Regression(TextClassifier):
    """A row has a number, and so has a prediction. The loss is the mean squared error.

    Parameters
    ----------
    cfg, spec
        See `TextClassifier`; the model has one output.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec, 1)

    def target(self, label: Any) -> float:
        """Return the number; ValueError if it is none."""
        found = number(label)
        if found is None:
            raise ValueError(
                f"it is {label!r}, and should be a number: leave such rows out with "
                "data.train.drop or data.test.drop"
            )
        return found

    def targets(self, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return the number of each row, float32 [rows]."""
        return torch.tensor([self.right(row) for row in rows], dtype=torch.float32)

    def answers(self, logits: Tensor) -> list[float]:
        """Return the output for each row."""
        found: list[float] = logits[:, 0].double().tolist()
        return found

    def score(self, predictions: Sequence[float], rows: Rows) -> dict[str, float]:
        """Return Pearson's and Spearman's correlation, and the mean squared error.

        A correlation is 0 where it is not defined: all predictions, or all numbers of the rows,
        are the same.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """
        check_predictions(predictions, rows)
        true = np.array([self.right(rows[index]) for index in range(len(rows))])
        return scores(np.array(predictions, np.float64), true)
