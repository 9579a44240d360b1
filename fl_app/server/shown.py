"""What the server tells of a round while it lasts, see ``fl_app.progress``."""

from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message

from fl_app.faults.printable import printable
from fl_app.progress.events import is_watched, say, send
from fl_app.runs.text import size
from fl_app.server.round import Round
from fl_app.wire.ledger import Transfers
from fl_app.wire.records import message_bytes

MOST_NAMED = 6  # clients that a line names
MOST_SENT = 50  # names that go to the display
VERBS = {"train": ("trains", "train"), "evaluate": ("scores", "score")}


class Shown:
    """Tells whom a round asks, what arrives, and when the server scores.

    Parameters
    ----------
    rounds : int
        Of the run.
    ledger : Transfers
        Where the bytes of earlier rounds stand.

    Attributes
    ----------
    names : mapping
        Client to its name, where clients have names.
    """

    def __init__(self, rounds: int, ledger: Transfers) -> None:
        self.rounds = rounds
        self.ledger = ledger
        self.names: Mapping[int, str] = {}

    def asked(self, asked: Round, by_node: bool) -> None:
        """Say who trains or scores now.

        Parameters
        ----------
        by_node : bool
            Nodes were asked that have not yet said which clients they are.
        """
        one, many = VERBS[asked.kind]
        clients = [pending.down.partition for pending in asked.pending]
        named = {client: self._name(client) for client in clients[:MOST_SENT]}
        if by_node or len(clients) > MOST_NAMED:
            who = f"{len(clients)} {'nodes' if by_node else 'clients'} {many}"
        elif len(clients) == 1:
            who = f"client {named[clients[0]]} {one}"
        else:
            who = f"clients {', '.join(named.values())} {many}"
        self._say(asked.number, who, self._sent(asked))
        send(clients={str(client): name for client, name in named.items()})

    def arriving(self, asked: Round, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies, and tell the display of each one."""
        if not is_watched():
            yield from replies
            return
        waiting = {one.message.metadata.message_id: one for one in asked.pending}
        down, up = self._sent(asked)
        for reply in replies:
            pending = waiting.pop(reply.metadata.reply_to_message_id, None)
            up += message_bytes(reply) if asked.kind == "train" else 0
            yield reply
            if pending is not None:  # a node that was drawn has said which client it is
                send(replied=pending.down.partition, traffic=_traffic(down, up))

    def scoring(self, server_round: int) -> None:
        """Say that the server scores the model after a round."""
        self._say(server_round, "the server scores the model", self._sent())

    def _say(self, number: int, what: str, sent: tuple[int, int]) -> None:
        traffic, phase = _traffic(*sent), f"round {number} of {self.rounds}: {what}"
        if is_watched():
            say(phase, traffic=traffic)
        else:
            say(f"{phase}; {traffic}")

    def _name(self, client: int) -> str:
        return printable(self.names.get(client, client), most=20)

    def _sent(self, asked: Round | None = None) -> tuple[int, int]:
        """Return the bytes down and up so far, without evaluation, as ``Ledger.sent``."""
        rows = [row for row in self.ledger.rows if row.kind != "evaluate"]
        if asked is not None and asked.kind == "train":
            rows += [pending.down for pending in asked.pending]
        down = sum(row.message_bytes for row in rows if row.direction == "down")
        return down, sum(row.message_bytes for row in rows) - down


def _traffic(down: int, up: int) -> str:
    return f"{size(down)} down, {size(up)} up so far"
