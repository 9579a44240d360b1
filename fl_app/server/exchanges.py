"""``Coded`` where a round has several exchanges with each client.

The first message of a round brings the model, and the reply to the last one brings it back, as in
any round. Between them the inner strategy answers every reply with a message of another form, see
``fl_app.wire.forms``, and a client says in its reply whatever the next message depends on. Every
message is a row of the ledger.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fl_app.codecs.by_part import MODEL
from fl_app.faults.printable import printable
from fl_app.server.coded import Coded
from fl_app.server.mailbox import Mailbox
from fl_app.server.round import Pending, Round
from fl_app.server.sending import Sender
from fl_app.server.uplink import fail
from fl_app.wire.messages import EXCHANGE

logger = logging.getLogger("thinwire")


@runtime_checkable
class Exchanging(Protocol):
    """A strategy that answers replies within a round."""

    def answer(self, model: Any, server_round: int, reply: Message) -> Message:
        """Return the next message to the client of ``reply``; its config names its form.

        A reply to a message whose form brings the model back is the client's last one of the round,
        and is not answered.

        Parameters
        ----------
        model : Module
            The session's model.
        """


class ExchangingCoded(Coded):
    """Wrap an `Exchanging` strategy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._grid: Grid | None = None
        self._dropped: list[Round] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Coded`: the messages of the first exchange."""
        self._grid, self._dropped = grid, []
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Go on until every client is at its last exchange; then as `Coded` does."""
        assert self._grid is not None
        mailbox, timeout = Mailbox(self._grid), self.session.cfg.federation.reply_timeout
        asked = self._asked_for(server_round, "train")
        last: list[Pending] = []
        exchange = 0
        while asked.pending:
            exchange += 1
            # By client and not by arrival: the ledger of a run is the same wherever it is done.
            following = sorted(self._answers(asked, replies, exchange), key=lambda one: one.client)
            self._dropped.append(asked)
            last += [one for one in following if MODEL in one.form.up.codecs]
            more = [one for one in following if MODEL not in one.form.up.codecs]
            asked = Round(server_round, "train", more, asked.arrays)
            replies = mailbox.ask([one.message for one in more], timeout)
        last.sort(key=lambda one: one.client)
        self._asked = Round(server_round, "train", last, asked.arrays)
        replies = mailbox.ask([one.message for one in last], timeout)
        return super().aggregate_train(server_round, replies)

    def _answers(
        self, asked: Round, replies: Iterable[Message], exchange: int
    ) -> Iterator[Pending]:
        """Yield the message that follows each usable reply, in the order of their arrival."""
        inner = cast(Exchanging, self.inner)
        sender = Sender(self.session, self.downlink, asked.number, "train", {}, self.sends_theta0)
        questions = {one.client: one for one in asked.pending}
        for usable in self._receive(asked, replies):
            client = usable.partition
            addressed = {**self._addressed(client), EXCHANGE: exchange}
            try:
                plain = inner.answer(self.session.model, asked.number, usable.plain())
                pending = sender.coded(plain, self.clients.nodes[client], addressed)
            except Exception as error:  # whatever a client has sent, it ends no run
                logger.debug("an exchange of client %d", client, exc_info=True)
                fail(asked, questions[client], printable(f"{type(error).__name__}: {error}"))
                continue
            model = questions[client].start[MODEL]  # that the round began with, also for the client
            pending.start = {MODEL: model, **pending.start}
            yield pending

    def _settle(self, asked: Round) -> None:
        """Check that enough clients replied, to all of their exchanges."""
        for before in self._dropped:
            asked.pending += [one for one in before.pending if one.client in before.failed]
            asked.failed |= before.failed
            asked.crashed |= before.crashed
            asked.unreached |= before.unreached
        super()._settle(asked)
