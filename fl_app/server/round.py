"""What was sent in a round, and what became of it."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from omegaconf import DictConfig

from fl_app.aggregation.mean import Mean
from fl_app.codecs.by_part import MODEL
from fl_app.server.downlink import Coding
from fl_app.tree import Tree
from fl_app.wire.forms import Form
from fl_app.wire.ledger import Kind, Transfer
from fl_app.wire.messages import ARRAYS, BYTES, TRAVEL, TRAVEL_SECONDS
from fl_app.wire.records import to_record

logger = logging.getLogger("thinwire")

WEIGHT_ONE = "one"  # a metric that is 1 for every client, for weighted_by_key


class RoundFailedError(RuntimeError):
    """Too few clients of a round gave a usable reply."""


@dataclass
class Pending:
    """A message that waits for its reply.

    Attributes
    ----------
    client : int
        Who is asked: a client, or where nobody knows them beforehand a node's id.
    down : Transfer
        Its row in the ledger.
    form : Form
        Of the message, and of the reply.
    start : dict of str to Tree
        The parts as the client decodes them.
    seed_only_saving : int
        Message bytes that the first round's download would save if it brought no theta0.
    since : float
        When it was made, on the clock of ``time.monotonic``.
    """

    client: int
    message: Message
    down: Transfer
    form: Form
    start: Mapping[str, Tree]
    seed_only_saving: int = 0
    since: float = field(default_factory=time.monotonic)


@dataclass
class Usable:
    """A reply that passed every check, and the parts that it brought.

    The message holds metrics alone until `plain` puts the parts in. ``relayed`` is the model's
    coding, as long as it says what the model says. Evaluation brings no parts, and neither does a
    client that stays silent. ``travel`` is how many bytes the reply was, and the seconds that it
    was under way.
    """

    partition: int
    message: Message
    parts: Mapping[str, Tree]
    relayed: Coding | None = None
    travel: tuple[int, float] = (0, 0.0)

    def plain(self) -> Message:
        """Return the reply as a strategy expects it: with its parts, from the partition."""
        content = RecordDict({**self.message.content})
        for part, tree in self.parts.items():
            content[record_name(part)] = to_record(tree)
        size, seconds = self.travel
        content[TRAVEL] = ConfigRecord({BYTES: size, TRAVEL_SECONDS: seconds})
        kind = self.message.metadata.message_type
        question = Message(RecordDict(), dst_node_id=self.partition, message_type=kind)
        self.message = Message(content, reply_to=question)
        return self.message


@dataclass
class Round:
    """What was sent in a round, and what became of it.

    Attributes
    ----------
    pending : list of Pending
        In the order of the partitions.
    arrays : ArrayRecord
        The model that the round starts from.
    failed : dict
        Client to why its reply cannot be used.
    crashed : set of int
        Those that answered with an error.
    unreached : set of int
        Those whose message, either way, a simulated link has lost: no fault of theirs.
    """

    number: int
    kind: Kind
    pending: list[Pending]
    arrays: ArrayRecord
    failed: dict[int, str] = field(default_factory=dict)
    crashed: set[int] = field(default_factory=set)
    unreached: set[int] = field(default_factory=set)

    def check_enough(self, limits: DictConfig) -> None:
        """Check that enough replies are usable, by ``federation`` of the configuration.

        What a simulated link has lost does not count: where it lost all, the model stays.

        Raises
        ------
        RoundFailedError
            If not; the message gives every client's reason.
        """
        failed = {k: why for k, why in self.failed.items() if k not in self.unreached}
        count = len(self.pending) - len(self.unreached)
        if not count:
            return
        reasons = "\n  ".join(f"client {k}: {failed[k]}" for k in sorted(failed))
        if len(failed) == count:
            raise RoundFailedError(f"every client of round {self.number} failed:\n  {reasons}")
        usable = count - len(failed)
        if usable < limits.min_replies or len(failed) > limits.max_failures * count:
            raise RoundFailedError(
                f"round {self.number}: {usable} of {count} replies are usable, where "
                f"federation.min_replies={limits.min_replies} and "
                f"federation.max_failures={limits.max_failures:g}:\n  {reasons}"
            )


def averaged(arriving: Iterable[Usable], weighted_by: str) -> list[Message]:
    """Return one message that stands for all: of the mean model, with the whole weight.

    Clients that stayed silent are not in it. Replies are folded in one by one, see
    ``fl_app.aggregation.mean``.
    """
    mean, last = Mean(), None
    for one in arriving:
        if one.parts:
            metrics = cast(Any, one.message.content["metrics"])
            mean.add(one.parts[MODEL], metrics[weighted_by], metrics)
            last = one.message
    if last is None:
        return []
    metrics = MetricRecord({**mean.metrics(), weighted_by: mean.weight})
    last.content = RecordDict({ARRAYS: to_record(mean.tree()), "metrics": metrics})
    return [last]


def record_name(part: str) -> str:
    """Return the name of a part's ArrayRecord in the messages that a strategy sees."""
    return ARRAYS if part == MODEL else part


def left_out(server_round: int, client: int, why: str) -> None:
    """Say that a client is no further part of a round, and why."""
    logger.warning("round %d, left out: client %d: %s", server_round, client, why)
