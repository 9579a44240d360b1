"""What a reply has to be before a strategy may see it."""

from collections.abc import Collection
from typing import Any, cast

import numpy as np
from flwr.app import Message, MetricRecord
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fl_app.codecs import WireError
from fl_app.faults.printable import printable
from fl_app.server.round import RoundFailedError
from fl_app.tasks.metrics import scale
from fl_app.wire import readers
from fl_app.wire.messages import EXAMPLES, LOSS, SECONDS, SINCE
from fl_app.wire.readers import Said

# Flower weighs a client by its number of examples and the run adds up the seconds, so one absurd
# value would stand for all.
MAX_EXAMPLES = 2**29  # for fl_app.aggregation.mean to be exact
MAX_LOSS = float(np.finfo(np.float32).max)  # of training in float32; its mean stays finite
MAX_SECONDS = 1e7  # 116 days
# Of a simulation, errors that no client gives: the app itself answers with another code.
NO_CLIENTS = (ErrorCode.UNKNOWN, ErrorCode.LOAD_CLIENT_APP_EXCEPTION)


def check_kept(grid: Grid, reply: Message) -> None:
    """Check that a simulation has not lost the turn that ``reply`` stands for.

    Only what a client did may leave it out of a round.

    Raises
    ------
    RoundFailedError
        If it has: the run ends, and can be resumed.
    """
    if isinstance(grid, InMemoryGrid) and reply.has_error() and reply.error.code in NO_CLIENTS:
        raise RoundFailedError(reason(reply))


def reason(reply: Message) -> str:
    """Return why a node could not answer, as one line: the node chooses the words.

    This is the one place where they are read.
    """
    return printable(reply.error.reason)


def check_metrics(said: Said, reply: Message, names: Collection[str]) -> MetricRecord:
    """Return the metrics of a reply, which should be those of ``names``.

    Parameters
    ----------
    said : mapping
        What its head says; scores are in a MetricRecord.

    Raises
    ------
    WireError
        If they are not exactly those of this app, or beyond what they can be: a whole number of
        examples, a finite loss, scores in the bounds of their metrics. Flower's aggregation would
        fail for all clients, or weigh one of them at will.
    """
    head = {name: said[name] for name in (EXAMPLES, LOSS) if name in said}
    records = reply.content.metric_records.values()
    listed = [*head, *(name for record in records for name in record)]
    if sorted(listed) != sorted(names):
        shown = sorted(listed) if len(listed) <= 9 else len(listed)
        raise WireError(
            f"the reply has metrics {printable(shown, most=200)}, expected {sorted(names)}"
        )
    found = head | {name: value for record in records for name, value in record.items()}
    for name in names:
        if name == EXAMPLES:
            readers.integer(found, name, 1, MAX_EXAMPLES)
        elif name == LOSS:
            readers.number(found, name, -MAX_LOSS, MAX_LOSS)
        else:
            readers.number(found, name, scale(name).least, scale(name).most)
    return MetricRecord(cast(Any, found))


def capped(metrics: MetricRecord, most: int | None) -> MetricRecord:
    """Return the metrics with a number of examples of ``most`` in place of a larger one."""
    if most is None:
        return metrics
    return MetricRecord({**metrics, EXAMPLES: min(cast(int, metrics[EXAMPLES]), most)})


def check_timing(said: Said) -> dict[str, float]:
    """Return the seconds that a reply's head says: ``decode``, ``work`` and ``encode``.

    Raises
    ------
    WireError
        If one is missing or no credible length of time.
    """
    return {name: readers.number(said, name, 0, MAX_SECONDS) for name in SECONDS}


def check_since(said: Said, server_round: int) -> int:
    """Return the round whose state the client's codec started from, 0 for a fresh one.

    Raises
    ------
    WireError
        If it is no round before ``server_round``.
    """
    return readers.integer(said, SINCE, 0, server_round - 1) if SINCE in said else 0
