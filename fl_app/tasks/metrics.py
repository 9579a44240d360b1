"""Which metrics a task has, what each can be, and which end of it is the better one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fl_app.tasks import classes, label_sets

ACCURACY, PERPLEXITY, TOKEN_ACCURACY = "accuracy", "perplexity", "token_accuracy"
FREE_TEXT = ("rouge_l", "token_f1")


class Scale(NamedTuple):
    """The values that a metric can have.

    Attributes
    ----------
    least, most : float
        Its bounds.
    lower_is_better : bool
        Whether a small value is a good one.
    """

    least: float = 0.0
    most: float = 1.0
    lower_is_better: bool = False


MOST = 1e300  # of an unbounded metric: means over clients and squares of differences stay finite
SINGLE, REGRESSION, MULTI = (
    "single_label_classification", "regression", "multi_label_classification",
)  # fmt: skip
PROBLEMS: Mapping[str, tuple[str, ...]] = {  # of classifiers, as transformers names them
    SINGLE: tuple(classes.METRICS),
    REGRESSION: ("pearson", "spearman", "mse"),
    MULTI: label_sets.METRICS,
}
SCALES: Mapping[str, Scale] = {  # of the metrics that are no shares
    **dict.fromkeys(("mcc", "pearson", "spearman"), Scale(least=-1.0)),
    "mse": Scale(most=MOST, lower_is_better=True),
    PERPLEXITY: Scale(least=1.0, most=MOST, lower_is_better=True),
}


def of(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in the scores of a task, its own first.

    Parameters
    ----------
    task : mapping
        The group ``task`` of a configuration.
    """
    kind = task["id"]
    if task.get("format") == "text":
        return (PERPLEXITY, TOKEN_ACCURACY)
    if kind == "docvqa":
        return ("anls", ACCURACY)
    if kind == "sequence_classification":
        return PROBLEMS[task.get("problem_type", SINGLE)]
    free = FREE_TEXT if task["answer"] == "text" else ()
    return (ACCURACY, *free, *((PERPLEXITY,) if kind == "causal_lm" else ()))


def scale(metric: str | None) -> Scale:
    """Return the scale of a metric: of one that is not in ``SCALES``, that of a share."""
    return SCALES.get(metric or "", Scale())


def oriented(metric: str | None, value: float) -> float:
    """Return a value of a metric, with its sign changed where lower is better: more is better."""
    return -value if scale(metric).lower_is_better else value


def perplexity(loss: float) -> float:
    """Return exp of the mean negative log-likelihood of a token, at most ``MOST``."""
    return math.exp(loss) if loss < math.log(MOST) else MOST
