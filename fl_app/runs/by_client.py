"""Scores of a model by client: on the server's test rows, and on what clients hold."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from fl_app.wire.messages import EXAMPLES

SERVER, OWN = "test", "own rows"
ROWS = "rows"

Scores = dict[str, dict[str, float]]
"""Client's name -> ``rows``, how many examples, and the scores on them."""


class Scoring(Protocol):
    """A task: see ``fl_app.tasks.base.Task``."""

    def examples(self, rows: Any) -> int:
        """Return the number of examples in rows."""

    def score(self, predictions: Sequence[str], rows: Any) -> dict[str, float]:
        """Return the scores of predictions."""


def on_test_rows(
    task: Scoring, predictions: Sequence[str], rows: Any, column: str | None
) -> Scores:
    """Return the scores of a model on the test rows of each client.

    Parameters
    ----------
    task : Scoring
        Counts the examples of a row, and scores.
    predictions : sequence of str
        One for each example of the rows.
    rows : Dataset
        The test rows.
    column : str or None
        Says whose a row is. Where there is none, or the rows lack it, nothing is returned.
    """
    if column is None or column not in rows.column_names:
        return {}
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(rows[column][:]):
        places.setdefault(str(owner), []).append(place)
    counts = (task.examples([rows[place]]) for place in range(len(rows)))
    starts = [0, *accumulate(counts)]
    found: Scores = {}
    for owner, own in sorted(places.items()):
        said = [one for at in own for one in predictions[starts[at] : starts[at + 1]]]
        found[owner] = {ROWS: len(said), **task.score(said, rows.select(own))}
    return found


def on_own_rows(scores: Mapping[int, Mapping[str, float]], names: Mapping[int, str]) -> Scores:
    """Return the scores that clients gave a model, by name, else number.

    Parameters
    ----------
    scores : mapping
        Client -> the number of examples and the scores in its reply.
    names : mapping
        Client -> its name, where a column of the rows has it.
    """
    return {
        names.get(client, str(client)): {
            ROWS: said[EXAMPLES],
            **{name: x for name, x in said.items() if name != EXAMPLES},
        }
        for client, said in sorted(scores.items())
    }


def extremes(scores: Scores, metric: str) -> tuple[str, str] | None:
    """Return the clients with the least and the largest value of a metric; None below two."""
    named = sorted((one[metric], name) for name, one in scores.items() if metric in one)
    return (named[0][1], named[-1][1]) if len(named) > 1 else None


def is_ours(content: Any) -> bool:
    """Tell whether a content has the form of what `answers` keeps: model -> source -> scores."""
    return isinstance(content, Mapping) and all(
        isinstance(value, int | float)
        for sources in content.values()
        for scores in sources.values()
        for one in scores.values()
        for value in one.values()
    )
