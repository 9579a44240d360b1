"""What was sent in a round, and what became of it."""

import logging
from dataclasses import dataclass, field

from flwr.app import Message

from fl_app.server.downlink import Coding
from fl_app.tree import Tree
from fl_app.wire.ledger import Kind, Transfer
from fl_app.wire.messages import ARRAYS
from fl_app.wire.records import to_record

logger = logging.getLogger("thinwire")

WEIGHT_ONE = "one"  # a metric that is 1 for every client, for weighted_by_key


@dataclass
class Pending:
    """A message that waits for its reply."""

    message: Message
    down: Transfer


@dataclass
class Usable:
    """A reply that passed every check, and the model that it brought.

    The message holds metrics alone, the model is ``tree``; `plain` puts it in. ``relayed`` is the
    frame that it came in, as long as it says what the tree says. Evaluation brings no model.
    """

    partition: int
    message: Message
    tree: Tree | None
    relayed: Coding | None

    def plain(self) -> Message:
        """Return the message with the model in it, as a strategy expects it."""
        if self.tree is not None:
            self.message.content[ARRAYS] = to_record(self.tree)
        return self.message


@dataclass
class Round:
    """What was sent in a round, and what became of it.

    Attributes
    ----------
    broadcast : Coding
        The model that the clients got.
    pending : list of Pending
        In the order of the partitions.
    failed : dict
        Client to why its reply cannot be used.
    crashed : set of int
        Those that answered with an error.
    """

    number: int
    kind: Kind
    broadcast: Coding
    pending: list[Pending]
    failed: dict[int, str] = field(default_factory=dict)
    crashed: set[int] = field(default_factory=set)


def left_out(server_round: int, client: int, why: str) -> None:
    """Say that a client is no further part of a round, and why."""
    logger.warning("round %d, left out: client %d: %s", server_round, client, why)
