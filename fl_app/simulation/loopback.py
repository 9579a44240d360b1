"""A grid whose nodes are in this process: the real ClientApp, without SuperLink and Ray."""

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from fl_app.client.simulated import simulated_in_process
from fl_app.client_app import app


class Loopback:
    """A grid of nodes with one partition each.

    Their ids look random, and replies never come in the order of the questions.

    Parameters
    ----------
    overrides : str
        Those of the run.
    nodes : int
        The number of nodes and partitions.
    run_id : int
        Flower's id of the run, by which nodes keep what they remember.
    state_dir : Path or None
        The folder that nodes keep it in; None: one that lasts as long as this object.

    Attributes
    ----------
    contexts : dict
        Node id -> Flower's Context of the node.
    """

    def __init__(
        self, overrides: str, nodes: int, run_id: int = 1, state_dir: Path | None = None
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
        self.run = SimpleNamespace(run_id=run_id)
        self.disk = TemporaryDirectory()
        self.contexts = {
            7919 * (part + 3) % 1009: Context(
                run_id=run_id,
                node_id=7919 * (part + 3) % 1009,
                node_config={
                    "partition-id": part,
                    "num-partitions": nodes,
                    "state-dir": self.disk.name if state_dir is None else str(state_dir),
                },
                state=RecordDict(),
                run_config={"overrides": overrides},
            )
            for part in range(nodes)
        }
        self.numbers = count()
        self.waiting: dict[str, Message] = {}

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of all nodes."""
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send the questions and return the replies."""
        return self.pull_messages(self.push_messages(list(messages)))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take the questions; a node answers when its reply is pulled."""
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{next(self.numbers)}"
            self.waiting[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these questions, in reverse order."""
        asked = [self.waiting.pop(i) for i in message_ids if i in self.waiting]
        replies = [self.deliver(message) for message in asked]
        return [reply for reply in replies if reply is not None][::-1]

    def deliver(self, message: Message) -> Message | None:
        """Return a node's reply to ``message``; None if it gives none."""
        context = self.contexts[message.metadata.dst_node_id]
        with simulated_in_process():
            return over_the_wire(app(over_the_wire(message), context))


def over_the_wire(message: Message) -> Message:
    """Serialize a message and read it again, as sending it would."""
    return message_from_proto(message_to_proto(message))
