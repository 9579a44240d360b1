"""Which scores select a round: its best one, and the one in which the target was first met.

A round that is chosen because its score is high has a score that is too high: part of it is the
luck of those rows. So a round is selected by its scores on the split ``validation``, and judged by
its scores on ``test``. Without a validation split, or where a round lacks its scores (a run that an
earlier version began), rounds are selected on ``test``, and results say so. The last round is not
selected by any score: final scores are not biased either way.
"""

from collections.abc import Sequence

from fl_app.tasks.metrics import oriented, scale

Metric = tuple[int, str, str, float]
"""A row of metrics.csv: round, split, metric, value."""
VALIDATION, TEST = "validation", "test"
CLEARLY = 0.05
"""A last round with a selecting score that is worse than the best by more is clearly worse: a
difference of shares; a part of the best score where a metric has no upper bound. On few rows chance
alone can do that: the warning that follows costs nothing then."""


def scores(metrics: Sequence[Metric], split: str, metric: str | None) -> dict[int, float]:
    """Return a metric on a split of the data, by round."""
    return {r: value for r, s, name, value in metrics if (s, name) == (split, metric)}


def selected_on(metrics: Sequence[Metric], metric: str | None) -> str:
    """Return the split by whose scores a run's rounds are selected: "validation" or "test"."""
    validated, tested = (scores(metrics, split, metric) for split in (VALIDATION, TEST))
    return VALIDATION if validated and tested.keys() <= validated.keys() else TEST


def selecting(metrics: Sequence[Metric], metric: str | None) -> dict[int, float]:
    """Return the scores that select a round, of the rounds that have a test score too."""
    tested = scores(metrics, TEST, metric)
    found = scores(metrics, selected_on(metrics, metric), metric)
    return {r: value for r, value in found.items() if r in tested}


def best_round(metrics: Sequence[Metric], metric: str | None) -> int | None:
    """Return the first round with the best selecting score; None without any."""
    found = selecting(metrics, metric)
    return min(found, key=lambda r: (-oriented(metric, found[r]), r), default=None)


def last_is_worse(metrics: Sequence[Metric], metric: str | None) -> bool:
    """Tell whether the last round is clearly worse than the best one, by ``CLEARLY``."""
    found = {r: oriented(metric, value) for r, value in selecting(metrics, metric).items()}
    if not found:
        return False
    best = max(found.values())
    clearly = CLEARLY if scale(metric).most == 1 else CLEARLY * abs(best)
    return found[max(found)] < best - clearly


def first_met(metrics: Sequence[Metric], metric: str | None, goal: float | None) -> int | None:
    """Return the first round whose selecting score is as good as ``goal``; None without any."""
    if goal is None:
        return None
    found, least = selecting(metrics, metric), oriented(metric, goal)
    return min((r for r, value in found.items() if oriented(metric, value) >= least), default=None)
