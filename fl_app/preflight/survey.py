"""What the clients of a run hold: rows, labels and lengths, read as they will read them."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from torch import Tensor

from fl_app.data import named_clients
from fl_app.data.padding import IGNORED
from fl_app.data.rows import first
from fl_app.session import Session
from fl_app.tasks import check_columns
from fl_app.tasks.base import Task
from fl_app.tasks.evaluation import batches

UNLIMITED = 1 << 30  # tokens
MEASURED = 200  # rows of a client whose tokens are counted


@dataclass(frozen=True)
class Survey:
    """The rows of a client or of a split of the server.

    Attributes
    ----------
    rows : int
        How many.
    lengths : sequence of int
        Tokens of the inputs of the first rows, as they are trained on, in ascending order.
    labels : mapping of str to int
        Rows by their label; empty for a task without labels.
    owner : str
        The name of the client, where a column of the rows names it; else "".
    cut : int
        How many of the first rows are longer than the model's limits, and so lose a part.
    """

    rows: int
    lengths: Sequence[int]
    labels: Mapping[str, int]
    owner: str = ""
    cut: int = 0


def survey(task: Task, split: str, rows: Dataset) -> Survey:
    """Check rows as a client does before it trains on them, and count what is in them.

    Raises
    ------
    FaultError
        If a column is missing or a row cannot be learnt from.
    """
    check_columns(task, split, rows)
    task.check(rows)
    lengths: list[int] = []
    cut = 0
    for some in batches(first(rows, MEASURED)):
        lengths += task.training(some)["attention_mask"].sum(dim=1).tolist()
        cut += _cut(task, some)
    return Survey(len(rows), sorted(lengths), _labels(task, rows), cut=cut)


def _labels(task: Any, rows: Dataset) -> Mapping[str, int]:
    """Return how many rows have each label; nothing for a task without labels."""
    if not hasattr(task, "labels"):
        return {}
    found = rows[task.label][:]
    lists = (one if isinstance(one, list) else [one] for one in found)
    return Counter(str(label) for some in lists for label in some)


def _cut(task: Task, rows: Sequence[dict[str, Any]]) -> int:
    """Return how many rows would have more tokens without limits; 0 where pages are cut by plan."""
    if not hasattr(task, "max_length"):
        return 0
    free: Any = copy.copy(task)
    free.max_length = free.max_answer_length = UNLIMITED
    # Row by row: a conversation may be several sequences.
    return sum(_size(task.training([row])) != _size(free.training([row])) for row in rows)


def _size(batch: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return how many tokens a batch has, and how many of them are trained."""
    return int(batch["attention_mask"].sum()), int((batch["labels"] != IGNORED).sum())


def surveys(session: Session) -> tuple[dict[int, Survey], dict[str, Survey]]:
    """Return the surveys of all clients, and of the splits that the server scores.

    Clients are missing where every node has its own rows, which it checks itself.

    Raises
    ------
    FaultError
        See `survey`; or if the rows cannot be divided among the clients.
    """
    data, task = session.data, session.task
    clients = range(session.cfg.federation.clients) if "train" in data else ()
    found = {client: survey(task, "train", session.documents(client)) for client in clients}
    named = named_clients(data["train"], session.cfg.data.partitioner) if found else []
    return (
        {**found, **{k: replace(found[k], owner=str(name)) for k, (name, _) in enumerate(named)}},
        {
            split: survey(task, split, data[split])
            for split in ("validation", "test", "unseen")
            if split in data
        },
    )
