"""The share of right predictions."""

from collections.abc import Callable, Sequence
from typing import Any

from fl_app.tasks.evaluation import Rows


def accuracy(
    predictions: Sequence[str],
    rows: Rows,
    reference: str,
    is_right: Callable[[str, str], bool],
    average_over: str | None = None,
) -> float:
    """The mean of ``is_right(prediction, row[reference])``, in [0, 1].

    Args:
        average_over: a column: the mean over its values of the mean over the rows of each, as
            tables over several test sets have it. None: the mean over all rows.

    Raises:
        ValueError: there are not as many predictions as rows, or none.
    """
    if len(predictions) != len(rows) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions cannot be scored against {len(rows)} rows"
        )
    groups: dict[Any, list[bool]] = {}
    for index, prediction in enumerate(predictions):
        row = rows[index]
        group = row[average_over] if average_over is not None else None
        groups.setdefault(group, []).append(is_right(prediction, str(row[reference])))
    means = [sum(right) / len(right) for right in groups.values()]
    return sum(means) / len(means)
