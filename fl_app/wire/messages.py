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


FORM = "form"  # in a message's config: which form of the run its parts have, if not the default

CONTINUES = "continues"  # in the server's first question: the ids of the run before, oldest first


ARRAYS = "arrays"  # the key of the model in a message's content, as in Flower's own strategies

FRAME = "frame"  # the key of the one packed Array

STYPE = "thinwire.v1"

TIMING = "timing"  # ConfigRecord of a reply: seconds of decode, work and encode

TRAIN_METRICS = ("num-examples", "loss")  # what a client reports of a turn

PRIVATE_METRICS = ("num-examples",)  # of a turn with privacy: a loss would tell of the rows

EVALUATE_METRICS = ("num-examples",)  # what it reports with its scores


ACCEPTED = "accepted"  # in a message's config: the round whose reply the server accepted last

SINCE = "since"  # in a reply's timing: the round whose state this reply started from, 0 for none


# In a node's answer: it serves the partitions k with k mod PARTITIONS = PARTITION.
PARTITION, PARTITIONS = "partition-id", "num-partitions"
ROWS = "rows"
