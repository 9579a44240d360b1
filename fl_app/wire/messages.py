"""The keys and actions of every message between server and node, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.app import Message

SETUP = "signs"  # the action of the message that asks for an answer before round 1


def setup_question(node: int, partition: int) -> Message:
    """Return the message that asks a client for its answer before round 1."""
    from flwr.app import ConfigRecord, Message, RecordDict

    config = ConfigRecord({"partition": partition})
    return Message(RecordDict({"config": config}), node, f"query.{SETUP}")


PATCH = "patch"  # the action of the message

NUMBER, RANK = "number", "rank"  # in a message: which patch, and the rank of its factors


SECURE_KEYS, SECURE_SHARES, SECURE_REVEAL = (
    "secure_keys",
    "secure_shares",
    "secure_reveal",
)  # actions of the queries

CONFIG = "config"  # the key of a question's or an answer's record

SENDERS, SEALED = "secure.senders", "secure.sealed"  # in a training message's config


# In a strategy's config, by name, which form of the run a message's parts have, if not the default;
# in the message's head by its number in the configuration.
FORM = "form"

CONTINUES = "continues"  # in the server's first question: the ids of the run before, oldest first


# In the reply that a strategy sees: how many bytes it was, and the seconds that it was under way.
TRAVEL, BYTES, TRAVEL_SECONDS = "travel", "bytes", "seconds"

ARRAYS = "arrays"  # the key of the model in a message's content, as in Flower's own strategies

FRAME = "frame"  # the key of the one packed Array

STYPE = "thinwire.v1"

BARE = ""  # the key of the record with head and frame, and their key in it: the shortest

SECONDS = ("decode", "work", "encode")  # in a reply's head: of its steps

EXAMPLES, LOSS = "num-examples", "loss"

TRAIN_METRICS = (EXAMPLES, LOSS)  # what a client reports of a turn

PRIVATE_METRICS = (EXAMPLES,)  # of a turn with privacy: a loss would tell of the rows

EVALUATE_METRICS = (EXAMPLES,)  # what it reports with its scores


ACCEPTED = "accepted"  # in a question's head: the round whose reply the server accepted last

# In the head of a message of a round with several exchanges: which one it is, 0 for the first, and
# how many rows the tensors of its parts have whose number differs by message.
EXCHANGE, LENGTH = "exchange", "length"

SINCE = "since"  # in a reply's head: the round whose state this reply started from, 0 for none


# A node serves the partitions k with k mod PARTITIONS = PARTITION.
PARTITION, PARTITIONS = "partition-id", "num-partitions"
BY_NODE = "nodes"  # federation.sampling: the server draws nodes, and each says which client it is
NODE, ROWS = "node", "rows"  # how many rows each has, where that is told: a record, its key
