"""``Coded`` where the server sees the sum of a round's updates alone.

The protocol is ``fl_app.secure_aggregation.sum``; here is how it hangs in a round: keys and shares
before the model goes out, masked vectors in place of updates, and then one message with the mean,
as if there had been one client.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl_app.codecs import Wire, WireError
from fl_app.codecs.by_part import MODEL
from fl_app.codecs.modular import ring
from fl_app.codecs.streams import words
from fl_app.secure_aggregation.settings import settings
from fl_app.secure_aggregation.sum import SecureSum, SecureSumError
from fl_app.server.ask import ask
from fl_app.server.coded import Coded
from fl_app.server.replies import check_timing, reason
from fl_app.server.round import WEIGHT_ONE, Pending, RoundFailedError, Usable, left_out
from fl_app.server.uplink import Uplink
from fl_app.tree import scalars
from fl_app.wire.envelope import opened
from fl_app.wire.frame import unpack
from fl_app.wire.heads import REPLY
from fl_app.wire.ledger import Transfer
from fl_app.wire.messages import ARRAYS, CONFIG, SEALED, SECURE_REVEAL, SENDERS
from fl_app.wire.records import message_bytes, to_record


class SecureCoded(Coded):
    """Wrap a mean-type strategy so that it gets the clients' mean, and nobody else anything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uplink: SecureUplink = SecureUplink(self.session, self.ledger, self.clients.claims)
        self._grid: Grid | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See `Coded`."""
        self._grid = grid
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add up the masked vectors as they come, unmask the sum, and hand on the mean.

        Raises
        ------
        RoundFailedError
            See `Coded`, and if secure aggregation needs more clients than are left.
        """
        asked, here = self._asked_for(server_round, "train"), self.session
        usable = list(self._receive(asked, replies))
        self._settle(asked)
        total = self.uplink.sum
        try:
            section = words.pack(total.reveal(), total.ring.bits)
            tree = here.up.decode(Wire((section,)), here.reference(asked.pending[0].start[MODEL]))
        except (SecureSumError, WireError) as error:
            raise RoundFailedError(str(error)) from None
        (message, *_) = [one.message for one in usable]
        weight = total.ring.weight(section, total.total.size)
        metrics = MetricRecord({"num-examples": weight, WEIGHT_ONE: 1.0})
        message.content = RecordDict({ARRAYS: to_record(tree), "metrics": metrics})
        return self.inner.aggregate_train(server_round, [message])

    def _prepare(self, cohort: list[int], server_round: int, grid: Grid) -> list[int]:
        """Return who is up to date, and has shared its secrets for the round."""
        ready = super()._prepare(cohort, server_round, grid)
        here = self.session
        added = ring(here.up.spec)

        rows: list[Transfer] = []  # of the set-up, until it is known whom it has lost

        def query(action: str, questions: dict[int, ConfigRecord]) -> dict[int, ConfigRecord]:
            answers, sent = self._query(action, questions, server_round)
            if action == SECURE_REVEAL:
                self.ledger.add(sent)
            else:
                rows.extend(sent)
            return answers

        self.uplink.sum = SecureSum(
            query, server_round, settings(here.cfg), added, added.count(here.theta0)
        )
        try:
            trains = self.uplink.sum.set_up(ready, here.cfg.seed)
            for client in {*ready} - {*trains} - {row.partition for row in rows if row.outcome}:
                asked = [one for one in rows if (one.partition, one.direction) == (client, "down")]
                asked[-1].lose("its answer in the set-up of secure aggregation cannot be used")
            return trains
        except SecureSumError as error:
            raise RoundFailedError(str(error)) from None
        finally:
            self.ledger.add(rows)

    def _addressed(self, partition: int) -> dict[str, Any]:
        """Return what only this client is told: also the shares that others have sealed for it."""
        sealed = self.uplink.sum.sealed_for(partition)
        shares = {SENDERS: list(sealed), SEALED: list(sealed.values())}
        return {**super()._addressed(partition), **shares}

    def _query(
        self, action: str, questions: dict[int, ConfigRecord], server_round: int
    ) -> tuple[dict[int, ConfigRecord], list[Transfer]]:
        """Send a query to each client; return the answers, and a row for every message."""
        assert self._grid is not None
        who = {"server-round": server_round}
        messages = {
            client: Message(
                RecordDict({CONFIG: ConfigRecord({**record, **who, "partition": client})}),
                self.clients.nodes[client],
                f"query.{action}",
            )
            for client, record in sorted(questions.items())
        }
        timeout = self.session.cfg.federation.reply_timeout
        answers: dict[int, ConfigRecord] = {}
        rows: list[Transfer] = []
        for client, (message, reply) in zip(
            messages, ask(self._grid, list(messages.values()), timeout), strict=True
        ):
            weight = message_bytes(message)
            down = Transfer(server_round, client, "down", "setup", message_bytes=weight)
            rows.append(down)
            why = f"no answer to {action} in time" if reply is None else ""
            if reply is not None:
                weight = message_bytes(reply)
                rows.append(Transfer(server_round, client, "up", "setup", message_bytes=weight))
                if reply.has_error():
                    why = f"{action}: {reason(reply)}"
                elif CONFIG in reply.content.config_records:
                    answers[client] = reply.content.config_records[CONFIG]
            if why:
                left_out(server_round, client, why)
                if action != SECURE_REVEAL:  # by then its vector is in the sum
                    down.lose(why)
        return answers, rows


class SecureUplink(Uplink):
    """Adds masked vectors in place of decoding updates: one of them is noise.

    Attributes
    ----------
    sum : SecureSum
        Of the round; set before its messages go out.
    """

    sum: SecureSum

    def _decode(self, reply: Message, pending: Pending, up: Transfer) -> Usable:
        """Check a reply, add its vector to the sum, and fill in its two ledger rows.

        Raises
        ------
        WireError
            If the frame is not one of this codec and theta0, or timing is not that of this app.
        """
        here, added = self.session, self.sum.ring
        said, frame = opened(reply.content, REPLY)
        timing = check_timing(said)
        self._note_spent(up, reply)
        if frame is None:
            raise WireError("the reply brings no frame")
        wire = unpack(frame, here.up, here.manifest)
        (section,) = wire.sections
        self.sum.add(up.partition, words.unpack(section, added.bits, added.count(here.theta0)))
        up.encode_s, pending.down.decode_s = timing["encode"], timing["decode"]
        size = wire.nbytes, len(REPLY.write(said)) + len(frame)
        up.carries(here.up.spec, scalars(here.theta0), *size, here.alias_bytes)
        self.train_seconds += timing["work"]
        reply.content = RecordDict()
        return Usable(up.partition, reply, {})
