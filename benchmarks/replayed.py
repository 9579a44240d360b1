"""A grid of any number of nodes that answer with recorded replies, and a server without a model.

The replies are those of the real ClientApp to the server's real messages, kept as the bytes that
Flower sends. A node's reply is read from them when the server pulls it, as from a network, so the
memory of a round is the server's alone.
"""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from omegaconf import DictConfig

from fl_app.adapters import ADAPTERS
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import compile_codecs, open_session
from fl_app.config import plain
from fl_app.server.coded import Coded
from fl_app.session import Session
from fl_app.simulation.loopback import Loopback
from fl_app.tasks import metrics
from fl_app.training.local import local_method
from fl_app.tree import Tree, manifest
from fl_app.wire.envelope import claim
from fl_app.wire.forms import forms
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record


@dataclass(frozen=True)
class Recording:
    """theta0 of a run, and the replies of its clients in round 1 as Flower sends them."""

    theta0: Tree
    replies: list[bytes]


def record(overrides: str) -> Recording:
    """Return theta0 and the replies of round 1, of clients that trained.

    Raises
    ------
    RuntimeError
        If a client failed.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)
    here = open_session(overrides)
    grid = Loopback(overrides, nodes=here.cfg.federation.clients)
    with tempfile.TemporaryDirectory() as folder:
        server = Coded(inner_strategy(here.cfg), here, Ledger(Path(folder, "ledger.csv")))
        messages = server.configure_train(
            1, to_record(here.theta0), ConfigRecord(), cast(Grid, grid)
        )
    replies = grid.send_and_receive(messages)
    for reply in replies:
        if reply.has_error():
            raise RuntimeError(f"a client failed: {reply.error.reason}")
    replies.sort(key=lambda r: grid.contexts[r.metadata.src_node_id].node_config["partition-id"])
    return Recording(here.theta0, [as_sent(reply) for reply in replies])


def as_sent(message: Message) -> bytes:
    """Return a message in bytes, as Flower serializes it."""
    return message_to_proto(message).SerializeToString()


def server_session(cfg: DictConfig, theta0: Tree) -> Session:
    """Return a session with all that a server needs to aggregate, and without weights."""
    here = Session(
        cfg=cfg,
        device=torch.device("cpu"),
        model=torch.nn.Module(),  # without weights
        tokenizer=cast(Any, None),
        task=cast(Any, SimpleNamespace(metrics=metrics.of(cfg.task))),
        adapter=ADAPTERS[cfg.adapter.id],
        theta0=theta0,
        manifest=manifest(theta0),
        forms=forms(plain(cfg.codec), plain(cfg.strategy.get("forms"))),
        method=local_method(plain(cfg.strategy.get("local"))),
        alias_bytes=0,
    )
    compile_codecs(here)
    return here


class ReplayedGrid:
    """Nodes with random ids; node k serves partition k and answers with reply k mod len(replies).

    Every message to a node is serialized, as a real grid does, and then dropped.
    """

    def __init__(self, replies: Sequence[bytes], nodes: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.replies = replies
        ids = np.random.default_rng(0).choice(2**62, nodes, replace=False)
        self.partitions = {int(node): part for part, node in enumerate(ids)}
        self.waiting: dict[str, Metadata] = {}
        self.numbers = count()

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes."""
        return list(self.partitions)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages to nodes and return their ids."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{next(self.numbers):064x}"
            as_sent(message)
            self.waiting[message.metadata.message_id] = message.metadata
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies, which are made only now."""
        return [self._reply(self.waiting.pop(i)) for i in message_ids if i in self.waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return their replies."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, asked: Metadata) -> Message:
        partition, group = self.partitions[asked.dst_node_id], ""
        if asked.message_type == "query":
            content, group = RecordDict(), claim(partition, len(self.partitions))
        else:
            frame = self.replies[partition % len(self.replies)]
            content = message_from_proto(ProtoMessage.FromString(frame)).content
        metadata = Metadata(
            run_id=asked.run_id,
            message_id=f"{next(self.numbers):064x}",
            src_node_id=asked.dst_node_id,
            dst_node_id=asked.src_node_id,
            reply_to_message_id=asked.message_id,
            group_id=group,
            created_at=asked.created_at,
            ttl=asked.ttl,
            message_type=asked.message_type,
            dst_task_id=asked.src_task_id,
        )
        return make_message(metadata=metadata, content=content)
