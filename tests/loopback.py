"""A grid whose nodes live in this process: the real ClientApp, without SuperLink and Ray."""

from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from fl_app.client_app import app

Tamper = Callable[[Message], Message | None]


class Loopback:
    """Nodes with ids that look random; ``tamper`` may change or drop the reply of a partition."""

    def __init__(self, overrides: str, nodes: int, tamper: dict[int, Tamper] | None = None) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.tamper = tamper or {}
        self.contexts = {
            7919 * (part + 3) % 1009: Context(
                run_id=1,
                node_id=7919 * (part + 3) % 1009,
                node_config={"partition-id": part, "num-partitions": nodes},
                state=RecordDict(),
                run_config={"overrides": overrides},
            )
            for part in range(nodes)
        }
        self.sent: list[Message] = []

    def get_node_ids(self) -> Sequence[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{len(self.sent)}"
            message = over_the_wire(message)
            self.sent.append(message)
            reply = app(over_the_wire(message), self.contexts[message.metadata.dst_node_id])
            if message.metadata.message_type != "query":
                tamper = self.tamper.get(int(message.content["config"]["partition"]))
                reply = tamper(reply) if tamper else reply
            if reply is not None:
                replies.append(over_the_wire(reply))
        return replies[::-1]  # never in the order of the questions


def over_the_wire(message: Message) -> Message:
    """Return what arrives: the message serialised and read again."""
    return message_from_proto(message_to_proto(message))
