"""The way up: replies checked, decoded, clipped and counted, one by one as they arrive."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict

from fl_app.codecs import State, WireError, receive
from fl_app.codecs.by_part import MODEL
from fl_app.faults.printable import printable
from fl_app.privacy import is_example_level
from fl_app.privacy.spent import Spent
from fl_app.privacy.spent import read as read_spent
from fl_app.server.by_node import Claims
from fl_app.server.downlink import Coding
from fl_app.server.pulling import bound_replies
from fl_app.server.replies import capped, check_metrics, check_since, check_timing, reason
from fl_app.server.round import WEIGHT_ONE, Pending, Round, Usable, left_out
from fl_app.session import Session
from fl_app.tree import Tree, scalars
from fl_app.wire.clip import within
from fl_app.wire.envelope import opened
from fl_app.wire.forms import Parcel
from fl_app.wire.frame import unpack
from fl_app.wire.heads import REPLY
from fl_app.wire.ledger import CLIPPED, LATE, Kind, Ledger, Transfer
from fl_app.wire.link import Link
from fl_app.wire.messages import EVALUATE_METRICS, PARTITION, PRIVATE_METRICS, TRAIN_METRICS
from fl_app.wire.readers import Said
from fl_app.wire.records import message_bytes

logger = logging.getLogger("thinwire")

MESSAGE_BYTES = 2**24  # the most that a reply has beside its model


@dataclass
class Received:
    """The last reply of a client that was accepted: its round, and the up codec's memory of it."""

    server_round: int
    memory: State


class Uplink:
    """Decodes replies with ``codec.up``, of which it keeps every client's memory.

    Parameters
    ----------
    session : Session
        Codec, theta0 and config of the run.
    ledger : Ledger
        Gets the rows of a round when it is over.
    claims : Claims or None
        What nodes say of themselves, where nobody knows the clients beforehand.

    Attributes
    ----------
    link : Link
        Loses messages, where one is simulated.
    train_seconds : float
        Seconds of local training that the clients reported.
    spent : dict
        Client to what it says that its rows have spent, with privacy.
    """

    def __init__(self, session: Session, ledger: Ledger, claims: Claims | None = None) -> None:
        self.session = session
        self.ledger = ledger
        self.link = Link(session.cfg)
        self._claims = claims
        self.train_seconds = 0.0
        self.spent: dict[int, Spent] = {}
        self._received: dict[int, Received] = {}
        self._overdue: dict[str, tuple[int, Kind, int]] = {}  # round, kind, client
        # Two values of 32 bits for each that is sent, an answer to the set-up, and the rest.
        answer = session.setup.answer_bytes(session.model) if session.setup else 0
        parcels = [session.plain_form.up, *(form.up for form in session.forms.values())]
        sent = max(scalars(session.references(parcel)) for parcel in parcels)
        bound_replies(MESSAGE_BYTES + 8 * sent + answer)

    def accepted(self, partition: int) -> int:
        """Return the round of the client's reply that was accepted last, 0 for none."""
        last = self._received.get(partition)
        return last.server_round if last else 0

    def receive(self, asked: Round, replies: Iterable[Message]) -> Iterator[Usable]:
        """Yield the usable replies to a round's messages in the order of their arrival.

        The others are in ``asked.failed`` when the iterator ends, and all rows in the ledger.
        """
        for one in asked.pending:
            if one.client in asked.unreached:
                fail(asked, one, "the link lost the question")
        waiting = {
            one.message.metadata.message_id: one
            for one in asked.pending
            if one.client not in asked.unreached
        }
        up_rows: dict[int, Transfer] = {}
        late: list[Transfer] = []
        for reply in replies:
            pending = waiting.pop(reply.metadata.reply_to_message_id, None)
            if pending is None:
                late += self._drop_late(reply)
                continue
            client, named = pending.client, pending.down.partition
            up = Transfer(asked.number, named, "up", asked.kind, message_bytes=message_bytes(reply))
            up_rows[client] = up
            if self.link.is_lost(client, "up", asked.number):
                up.received_bytes = 0
                asked.unreached.add(client)
                fail(asked, pending, "the link lost the reply")
                continue
            if reply.has_error():
                asked.crashed.add(client)
                fail(asked, pending, reason(reply))
                continue
            try:
                usable = self._decode(reply, pending, up)
            except WireError as error:
                fail(asked, pending, str(error))
                continue
            except Exception as error:  # whatever a node makes of a reply, it ends no run
                logger.debug("a reply of client %d", client, exc_info=True)
                fail(asked, pending, printable(f"{type(error).__name__}: {error}"))
                continue
            yield usable
        for identity, pending in waiting.items():
            self._overdue[identity] = asked.number, asked.kind, pending.down.partition
            fail(asked, pending, "it did not reply in time")
        rows = [(p.down, up_rows.get(p.client)) for p in asked.pending]
        self.ledger.add(late + [row for pair in rows for row in pair if row])

    def _drop_late(self, reply: Message) -> list[Transfer]:
        """Say that a reply came too late, and return its row: its bytes were sent all the same."""
        overdue = self._overdue.pop(reply.metadata.reply_to_message_id, None)
        if overdue is None or reply.has_error():
            return []
        number, kind, partition = overdue
        logger.warning(
            "round %d: the reply of client %d came after the deadline and is dropped",
            number, partition,
        )  # fmt: skip
        late = Transfer(number, partition, "up", kind, message_bytes=message_bytes(reply))
        late.outcome = LATE
        return [late]

    def _decode(self, reply: Message, pending: Pending, up: Transfer) -> Usable:
        """Check a reply, fill in its two ledger rows, and take the parts out of it.

        Raises
        ------
        WireError
            If the frame is not one of this form and theta0, or metrics or timing are not those
            of this app.
        """
        here = self.session
        names = (*EVALUATE_METRICS, *here.task.metrics)
        if up.kind == "train":
            names = PRIVATE_METRICS if is_example_level(here.cfg) else TRAIN_METRICS
        said, frame = opened(reply.content, REPLY)
        if self._claims is not None:
            up.partition = pending.down.partition = self._claims.check(pending.client, said)
        elif PARTITION in said:
            raise WireError("the reply says which client it is of, and was not asked")
        metrics = check_metrics(said, reply, names)
        metrics = capped(metrics, here.cfg.federation.max_examples)
        timing = check_timing(said)
        self._note_spent(up, reply)
        travel = up.message_bytes, self._seconds(pending, up, sum(timing.values()))
        usable = Usable(up.partition, reply, {}, travel=travel)
        if up.kind == "train":
            self._take_parts(usable, pending, up, frame, said)
            up.encode_s = timing["encode"]
            self.train_seconds += timing["work"]
        up.frame_bytes += len(REPLY.write(said))
        pending.down.decode_s = timing["decode"]
        reply.content = RecordDict({"metrics": MetricRecord({**metrics, WEIGHT_ONE: 1.0})})
        return usable

    def _seconds(self, pending: Pending, up: Transfer, worked: float) -> float:
        """Return how long a reply was under way.

        Of a real link, what passed since the question but the client's work: also the question's
        way, and until both sides looked for messages.
        """
        if self.link.is_simulated:
            return self.link.way(pending.client, "up").seconds(up.message_bytes)
        return max(0.0, time.monotonic() - pending.since - worked)

    def _take_parts(
        self, usable: Usable, pending: Pending, up: Transfer, frame: bytes | None, said: Said
    ) -> None:
        """Decode what a training reply brings; nothing of a client that may stay silent and did."""
        here, parcel = self.session, pending.form.up
        since = check_since(said, up.round)
        broadcast = pending.start.get(MODEL, here.theta0)
        began = time.perf_counter()
        reference = here.references(parcel, broadcast, here.length(said, parcel))
        memory = self._memory(up.partition, since, parcel, reference)
        if frame is None and not here.method.may_be_silent:
            raise WireError("the reply brings no frame")
        if frame is not None:
            wire = unpack(frame, parcel.whole, here.manifest)
            tree, memory = receive(parcel.whole, wire, reference, memory)
            usable.parts = parcel.separate(tree)
            here.method.check_sent(usable.parts, up.partition, up.round)
            if [*usable.parts] == [MODEL]:
                usable.relayed = Coding(tree, wire)
            up.decode_s = time.perf_counter() - began
            size = wire.nbytes, len(frame)
            up.carries(parcel.whole.spec, scalars(tree), *size, here.alias_bytes)
            self._clip(usable, broadcast, up)
        if here.ragged(parcel):
            up.kind = "split"
        if here.remembers:
            self._received[up.partition] = Received(up.round, memory)

    def _note_spent(self, up: Transfer, reply: Message) -> None:
        """Keep what the client of a private turn says; WireError if it does not."""
        if up.kind == "train" and is_example_level(self.session.cfg):
            self.spent[up.partition] = read_spent(reply)

    def _memory(self, partition: int, since: int, parcel: Parcel, reference: Tree) -> State:
        """Return the up codec's memory of the client, as of round ``since``, 0 for a fresh one.

        Raises
        ------
        WireError
            If that is neither the state of the round accepted last nor a fresh one.
        """
        if since == 0:
            return parcel.whole.init_receiver(reference)
        last = self._received.get(partition)
        if last is None or last.server_round != since:
            accepted = last.server_round if last else "none"
            raise WireError(f"the reply builds on round {since}, the last accepted is {accepted}")
        return last.memory

    def _clip(self, usable: Usable, broadcast: Tree, up: Transfer) -> None:
        """Scale the model's update, and every other change, to ``federation.max_update_rms``.

        A message with states of a cut model, or their gradients, brings no update, and stays.
        """
        here = self.session
        limit = here.cfg.federation.max_update_rms
        if limit is None or {*here.method.ragged} & {*usable.parts}:
            return
        for part, tree in usable.parts.items():
            if part in here.method.unscaled:
                continue
            clipped, found = within(limit, tree, broadcast if part == MODEL else here.like(part))
            if clipped is tree:
                continue
            logger.warning(
                "round %d: the %s of client %d has a root mean square of %.3g and is scaled down "
                "to federation.max_update_rms=%g",
                up.round, "update" if part == MODEL else part, up.partition, found, limit,
            )  # fmt: skip
            usable.parts, usable.relayed = {**usable.parts, part: clipped}, None
            up.outcome = CLIPPED

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: seconds, and what is remembered of every client."""
        clients = [[k, last.server_round, last.memory] for k, last in self._received.items()]
        spent = [[k, *astuple(said)] for k, said in self.spent.items()]
        return {"train_seconds": self.train_seconds, "clients": clients, "spent": spent}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.train_seconds = state["train_seconds"]
        self._received = {k: Received(number, memory) for k, number, memory in state["clients"]}
        self.spent = {k: Spent(*said) for k, *said in state.get("spent", [])}  # of late


def fail(asked: Round, pending: Pending, why: str) -> None:
    """Write down that a question had no usable reply, and why."""
    asked.failed[pending.client] = why
    pending.down.lose(why)
    left_out(asked.number, pending.client, why)
