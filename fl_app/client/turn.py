"""A client's turn of a round: decode what came, let the method work, encode what it returns.

The server's half is ``fl_app.server.coded.Coded``.
"""

import time
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fl_app.client import disk
from fl_app.client import rows as node_data
from fl_app.client.between import Between
from fl_app.client.clipping import clipped, clipping_norm
from fl_app.client.memory import Memory
from fl_app.client.patches import patched
from fl_app.client.training import LocalTraining
from fl_app.codecs import State, receive
from fl_app.codecs.by_part import MODEL
from fl_app.faults import FaultError
from fl_app.privacy import CLIPPING_NORM
from fl_app.seeds import turn_seed
from fl_app.session import Session
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.tree import Tree
from fl_app.wire import readers
from fl_app.wire.clip import within
from fl_app.wire.envelope import enclosed, question
from fl_app.wire.forms import Form, numbered
from fl_app.wire.frame import pack, unpack
from fl_app.wire.heads import REPLY
from fl_app.wire.messages import ACCEPTED, CONFIG, LENGTH, SEALED, SENDERS, SINCE

# Of a training message's config: what this app says itself. The rest is for the method.
OURS = {SENDERS, SEALED, CLIPPING_NORM}


def turn(message: Message, context: Context) -> Message:
    """Return a client's reply to a message for training.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, or from another theta0, or the form is none of
        the run.
    FaultError
        If the server asks for what the run's configuration does not.
    CodecError
        If what the method returns cannot be encoded, for example because it holds NaN.
    """
    here = patched(context)
    said, frame = question(message, here.manifest)
    config = message.content.config_records.get(CONFIG, ConfigRecord())
    client, held = node_data.asked(said, context, here.cfg)
    server_round = readers.server_round(said, here.cfg)
    asked = _of_the_method(config, here.method)
    length = clipping_norm(here.cfg, config)
    form = numbered(said, here.forms)
    clock = Clock()
    parts = decoded(frame, here, form, here.length(said, form.down))
    between = Between(context.state, client, server_round, readers.exchange(said))
    broadcast, kept = between.recall(parts.get(MODEL, here.theta0))
    clock.stop("decode")
    seed = turn_seed(here.cfg.seed, server_round, client)
    training = LocalTraining(here, context, client, server_round, seed)
    reference = here.references(form.up, broadcast)
    states = States(here, form, context, client, reference, seed)
    codec_state, method_state, receiver = states.recall(said, server_round)
    here.adapter.set(here.model, broadcast)
    answer = here.method.run(
        Assignment(
            parts=parts,
            theta0=here.theta0,
            memory=method_state,
            config=asked,
            form=form.name,
            client=client,
            server_round=server_round,
            seed=seed,
            model=here.model,
            rows=training.rows,
            train=training,
            task=here.task,
            exchange=between.exchange,
            kept=kept,
            decoded=lambda sent: counted(
                here, as_decoded(form, sent, codec_state, receiver, reference), parts
            ),
        )
    )
    answer = clipped(answer, parts, length)
    clock.stop("work")
    reply: bytes | None = None
    length_said: dict[str, int] = {}
    sent: Mapping[str, Tree] = {}
    if _speaks(answer, here.method):
        codec, tree = form.up.whole, form.up.join(answer.parts)
        if ragged := here.ragged(form.up):
            rows = {len(x) for part in ragged for x in answer.parts[part].values()}
            (length_said[LENGTH],) = rows
            reference = here.references(form.up, broadcast, length_said[LENGTH])
        wire, codec_state = codec.encode(tree, codec_state, reference)
        if here.method_remembers:
            tree, receiver = receive(codec, wire, reference, receiver)
            sent = counted(here, form.up.separate(tree), parts)
        reply = pack(wire, codec, here.manifest)
    between.keep(broadcast, answer.keep)
    memory = answer.remember(sent) if here.method_remembers else {}
    states.remember(server_round, codec_state, memory, receiver)
    clock.stop("encode")
    head = REPLY.write({**answer.metrics, **clock.seconds, **states.since, **held, **length_said})
    return answered(message, {**enclosed(reply, head), **training.spent})


def answered(message: Message, content: Mapping[str, Any]) -> Message:
    """Return the reply to a question with this content; its group id says nothing."""
    reply = Message(RecordDict({**content}), reply_to=message)
    reply.metadata.group_id = ""
    return reply


def as_decoded(
    form: Form, parts: Mapping[str, Tree], codec_state: State, receiver: State, reference: Tree
) -> Mapping[str, Tree]:
    """Return parts as the server would decode them; states are pure, so nothing is sent by it."""
    codec = form.up.whole
    wire, _ = codec.encode(form.up.join(parts), codec_state, reference)
    return form.up.separate(receive(codec, wire, reference, receiver)[0])


def counted(
    here: Session, sent: Mapping[str, Tree], start: Mapping[str, Tree]
) -> Mapping[str, Tree]:
    """Return what the server counts of the parts of a reply: each no longer than its limit.

    What both ends remember would else differ from the first update that the server scales down.
    """
    limit = here.cfg.federation.max_update_rms
    if limit is None:
        return sent
    like = {MODEL: start.get(MODEL, here.theta0)}
    return {
        part: tree
        if part in here.method.unscaled
        else within(limit, tree, like.get(part) or here.like(part))[0]
        for part, tree in sent.items()
    }


def decoded(
    frame: bytes | None, here: Session, form: Form, length: int | None = None
) -> dict[str, Tree]:
    """Return the parts that a message brings; WireError if its frame is none of this form.

    Without a frame they are theta0, as every node rebuilds it. Ragged parts have ``length`` rows.
    """
    parcel = form.down
    if frame is None:
        return parcel.separate({name: x.copy() for name, x in here.references(parcel).items()})
    wire = unpack(frame, parcel.whole, here.manifest)
    return parcel.separate(parcel.whole.decode(wire, here.references(parcel, length=length)))


def _of_the_method(config: ConfigRecord, method: LocalMethod) -> dict[str, Any]:
    """Return what a message's config says to the method; FaultError for what is not for it."""
    asked = {key: value for key, value in config.items() if key not in OURS}
    for key, said in asked.items():
        if key not in method.config_keys:
            raise FaultError("other_value", key=key, said=str(said), own="nothing of it")
    return asked


def _speaks(answer: Answer, method: LocalMethod) -> bool:
    """Return whether there is something to send; ValueError if there has to be and is not."""
    if not answer.parts and not method.may_be_silent:
        raise ValueError(f"{type(method).__name__} returned no parts, and may not stay silent")
    return bool(answer.parts)


class Clock:
    """Seconds of the steps of a turn, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def stop(self, step: str) -> None:
        """End a step; the next one begins."""
        now = time.perf_counter()
        self.seconds[step], self._began = now - self._began, now


class States:
    """What a client has between turns: its codec's state, its method's, and the receiver's memory.

    The last is the server's, followed here where the method has to know what the server decoded.

    Attributes
    ----------
    since : dict
        For the reply: which round's state it started from, where anything is remembered.
    """

    def __init__(
        self, here: Session, form: Form, context: Context, client: int, reference: Tree, seed: int
    ) -> None:
        codec = form.up.whole
        receiver = codec.init_receiver(reference) if here.method_remembers else ()
        self.fresh = codec.init(reference, seed), here.method.start(here.theta0), receiver
        self.memory = Memory(context.state, client, disk.folders(context))
        self.remembers = here.remembers
        self.since: dict[str, int] = {}

    def recall(self, said: Mapping[str, Any], server_round: int) -> tuple[State, Tree, State]:
        """Return the states after the reply that the server accepted last, else fresh ones."""
        if not self.remembers:
            return self.fresh
        accepted = readers.integer(said, ACCEPTED, 0, server_round - 1)
        states, self.since[SINCE] = self.memory.recall(accepted, self.fresh)
        return states

    def remember(self, server_round: int, codec: State, method: Tree, receiver: State) -> None:
        """Keep the states after the reply of ``server_round``.

        Raises
        ------
        ValueError
            If the method's has other tensors than its ``start``: it could not be read again.
        """
        _, start, _ = self.fresh
        kinds, should = (
            {n: (x.shape, x.dtype) for n, x in tree.items()} for tree in (method, start)
        )
        if differ := [name for name in {**should, **kinds} if kinds.get(name) != should.get(name)]:
            raise ValueError(
                "Answer.remember should return the names, shapes and types of the method's start; "
                f"{len(differ)} differ, first {differ[0]}"
            )
        if self.remembers:
            self.memory.remember(server_round, (codec, {n: method[n] for n in start}, receiver))
