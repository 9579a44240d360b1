"""``answers.json``: answers to a few of the server's test rows, scores by label and by client.

The rows are the server's own, never a client's. They are drawn by the run's seed, and are the same
for the start, the best and the last model, so that one sees what was learnt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_app.files import atomic_file
from fl_app.runs import by_client
from fl_app.runs.by_client import Scores
from fl_app.tasks import classes
from fl_app.tasks.as_text import as_text

FILE = "answers.json"
SHOWN = 10  # examples
LONGEST = 2000  # characters of a text
STREAM = 31  # separates the draw from other uses of the seed
START, BEST, LAST = "start", "best", "last"
TEXTS, RATES = ("asked", "reference"), ("precision", "recall", "f1", "rows")

Shown = list[tuple[str, str]]
"""What each example asks, and the right answer."""


def update(
    folder: Path,
    models: Sequence[str],
    seed: int,
    predictions: Sequence[Any],
    shown: Callable[[], Shown],
    labels: Sequence[str] | None,
    clients: Mapping[str, Scores] | None = None,
) -> None:
    """Write down the answers of a model, in place of earlier ones of the same kind.

    Parameters
    ----------
    folder : Path
        Of the run.
    models : sequence of str
        Of ``START``, ``BEST`` and ``LAST``: which model gave the answers.
    seed : int
        Of the run.
    predictions : sequence
        Of every example of the test split.
    shown : callable
        Returns the examples.
    labels : sequence of str or None
        Of a classifier: its labels.
    clients : mapping or None
        Where clients were scored, ``by_client.SERVER`` or ``OWN``, to their scores.
    """
    count = len(predictions)
    drawn = np.random.default_rng([seed, STREAM]).choice(count, min(SHOWN, count), replace=False)
    places = sorted(map(int, drawn))
    content = read(folder)
    is_first = content is None or [one["example"] for one in content["samples"]] != places
    examples = shown() if is_first or labels is not None else []
    if content is None or is_first:
        content = {
            "samples": [
                {"example": at, "asked": asked[:LONGEST], "reference": right[:LONGEST]}
                for at, (asked, right) in ((at, examples[at]) for at in places)
            ],
            "classes": {},
            "clients": {},
        }
    for one in content["samples"]:
        one.update(dict.fromkeys(models, as_text(predictions[one["example"]])[:LONGEST]))
    if labels is not None:
        matrix = classes.confusion(predictions, [right for _, right in examples], labels)
        found = {
            "labels": list(labels),
            "confusion": matrix.tolist(),
            "by_label": classes.by_label(matrix, labels),
        }
        content["classes"].update(dict.fromkeys(models, found))
    if found_clients := {where: scores for where, scores in (clients or {}).items() if scores}:
        content["clients"].update(dict.fromkeys(models, found_clients))
    text = json.dumps(content, indent=1, ensure_ascii=False)
    atomic_file(folder / FILE, f"{text}\n".encode())


def read(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's file; None if it has none, as a run of an earlier version."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # Files of an earlier version have no scores by client.
    return {"clients": {}, **content} if _is_ours(content) else None


def _is_ours(content: Any) -> bool:
    """Tell whether a content has the form that `update` writes: a folder may be anybody's."""
    try:
        samples = all(
            isinstance(one["example"], int) and all(isinstance(one[key], str) for key in TEXTS)
            for one in content["samples"]
        )
        return (
            samples
            and by_client.is_ours(content.get("clients", {}))
            and all(
                len(found["labels"]) == len(found["by_label"]) == len(found["confusion"])
                and all(len(row) == len(found["labels"]) for row in found["confusion"])
                and all(isinstance(n, int) for row in found["confusion"] for n in row)
                and all(
                    isinstance(one[key], int | float) for one in found["by_label"] for key in RATES
                )
                for found in content["classes"].values()
            )
        )
    except (KeyError, TypeError, AttributeError):
        return False


def of_clients(folder: Path) -> dict[str, Scores]:
    """Return the scores of the last model by client, by where clients were scored."""
    found: dict[str, Scores] = (read(folder) or {"clients": {}})["clients"].get(LAST, {})
    return found


def one_label(folder: Path) -> str | None:
    """Return that the last model predicts one label alone, and what its accuracy then is."""
    found = (read(folder) or {"classes": {}})["classes"].get(LAST)
    if found is None:
        return None
    predicted = [sum(column) for column in zip(*found["confusion"], strict=True)]
    if sum(count > 0 for count in predicted) != 1:
        return None
    at = next(k for k, count in enumerate(predicted) if count)
    share = sum(found["confusion"][at]) / sum(predicted)
    return (
        f"the model predicts {found['labels'][at]!r} alone: its accuracy is that label's share of "
        f"the test rows, {share:.2%}"
    )
