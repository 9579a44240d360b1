"""The loopback grid, with a list of sent messages, and with replies that can be changed."""

from collections.abc import Callable

from flwr.app import Message

from fl_app.client_app import app
from fl_app.simulation import loopback
from fl_app.simulation.loopback import over_the_wire
from tests.messages import who

Tamper = Callable[[Message], Message | None]


class Loopback(loopback.Loopback):
    """A loopback grid for tests.

    Parameters
    ----------
    overrides, nodes
        See ``fl_app.simulation.loopback.Loopback``.
    tamper : dict or None
        Partition -> a function that changes its replies, or drops them by returning None.

    Attributes
    ----------
    sent : list of Message
        All messages to nodes.
    said : dict or None
        Partition -> a reply to training, which that client gives again, without training, to this
        message and others like it; a first reply is added. None: all clients train.
    """

    def __init__(self, overrides: str, nodes: int, tamper: dict[int, Tamper] | None = None) -> None:
        super().__init__(overrides, nodes)
        self.tamper = tamper or {}
        self.sent: list[Message] = []
        self.said: dict[int, Message] | None = None

    def _answer(self, message: Message) -> Message:
        if self.said is None or message.metadata.message_type != "train":
            return super().deliver(message)
        partition = who(message)
        if partition not in self.said:
            self.said[partition] = super().deliver(message)
        again = over_the_wire(self.said[partition])
        return over_the_wire(Message(again.content, reply_to=message))

    def deliver(self, message: Message) -> Message | None:
        reply = self._answer(message)
        self.sent.append(over_the_wire(message))
        if message.metadata.message_type == "query":
            return reply
        tamper = self.tamper.get(who(message))
        reply = tamper(reply) if tamper else reply
        return None if reply is None else over_the_wire(reply)


class RealNodes(Loopback):
    """Nodes that are not marked as simulated, so that they have a policy and an audit log.

    Parameters
    ----------
    config
        Additions to the node config of all nodes.
    """

    def __init__(self, overrides: str, nodes: int, **config: str) -> None:
        super().__init__(overrides, nodes)
        for context in self.contexts.values():
            context.node_config |= config

    def deliver(self, message: Message) -> Message | None:
        self.sent.append(over_the_wire(message))
        return over_the_wire(
            app(over_the_wire(message), self.contexts[message.metadata.dst_node_id])
        )
