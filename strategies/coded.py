"""``Coded``: gives any Flower strategy a codec for each direction, and a ledger.

The inner strategy sees plain arrays and partition ids; clients see one packed Array. Its other
half, on the client, is ``fl_app.mods.coded``.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_app import first_step
from fl_app.codecs import State, WireError, receive
from fl_app.ledger import Kind, Ledger, Transfer, short_name
from fl_app.memory import ACCEPTED, SINCE
from fl_app.privacy import is_example_level
from fl_app.records import (
    ARRAYS,
    EVALUATE_METRICS,
    PRIVATE_METRICS,
    TIMING,
    TRAIN_METRICS,
    message_bytes,
    pack_record,
    to_record,
    to_tree,
    unpack_record,
)
from fl_app.session import Session
from fl_app.training import turn_seed
from fl_app.tree import Tree
from fl_app.wire import pack, unpack
from strategies.inner import Cohort
from strategies.nodes import find_clients
from strategies.patches import Patches, Patching, gather_signs
from strategies.replies import check_metrics, check_timing
from strategies.sampling import SAMPLERS

logger = logging.getLogger("thinwire")

WEIGHT_ONE = "one"  # a metric that is 1 for every client, for weighted_by_key


class RoundFailedError(RuntimeError):
    """No client of a round gave a usable reply."""


@dataclass
class Coding:
    """A model and the frame that carries it."""

    decoded: Tree
    frame: bytes
    payload_bytes: int
    encode_s: float


@dataclass
class Pending:
    """A message that waits for its reply."""

    message: Message
    down: Transfer


@dataclass
class Received:
    """The last reply of a client that was accepted: its round, and the up codec's memory of it."""

    server_round: int
    memory: State


@dataclass
class Usable:
    """A reply that passed every check, with plain arrays in it; evaluation brings no model."""

    message: Message
    model: Coding | None


@dataclass
class Coded(Strategy):
    """Wrap ``inner`` so that every model travels as one coded frame.

    Parameters
    ----------
    inner : Strategy
        Any Flower strategy; decides how replies become a model.
    session : Session
        Codecs, theta0 and config of the run.
    ledger : Ledger
        Gets one row per transfer when a round's replies are in.
    train_seconds : float
        Seconds of local training that the clients reported.
    seed_only_saving : int
        Message bytes that the first round's downloads would save if they brought only the seed,
        from which every client can rebuild theta0.
    """

    inner: Strategy
    session: Session
    ledger: Ledger
    train_seconds: float = 0.0
    seed_only_saving: int = 0
    nodes: dict[int, int] = field(default_factory=dict)
    _pending: list[Pending] = field(default_factory=list)
    _broadcast: Coding | None = None
    _source: ArrayRecord | None = None
    _relay: tuple[ArrayRecord, Coding] | None = None
    _down_state: State = None
    _received: dict[int, Received] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patches = Patches(self.session, self.ledger)

    def set_up(self, grid: Grid) -> None:
        """Find LoRA-SB's B, A and R0, and with them theta0; of other adapters nothing is needed.

        Raises
        ------
        RuntimeError
            If a client whose gradient is wanted gives none.
        """
        here, cfg = self.session, self.session.cfg
        if not first_step.is_needed(cfg):
            return
        asked = first_step.askers(cfg)
        if asked:
            self._find_nodes(grid)
            missing = sorted({*asked} - {*self.nodes})
            if missing:
                raise RoundFailedError(
                    f"clients {missing} have no node, and their gradients are wanted"
                )
            nodes = {client: self.nodes[client] for client in asked}
            signs = gather_signs(grid, nodes, here, self.ledger, cfg.federation.reply_timeout)
            factors = first_step.from_signs(here, signs)
        else:
            factors = first_step.public(here)
        if first_step.is_derived(cfg):
            here.patch(factors, first_step.DERIVED)
        else:
            self.patches.add(factors, cfg.adapter.r, "setup")

    def summary(self) -> None:
        """Log the inner strategy's settings."""
        self.inner.summary()

    # ---- server to clients ----------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by partition and send them the coded model."""
        cfg = self.session.cfg
        cohort = self._sample(cfg.clients_per_round, server_round, grid, "train")
        cohort = self._patch(cohort, server_round, grid)
        broadcast = self._encode(arrays)
        messages = self.inner.configure_train(
            server_round, to_record(broadcast.decoded), config, cast(Grid, Cohort(cohort))
        )
        return self._send(messages, broadcast, server_round, "train")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the coded model to the clients that score it; none by default."""
        count = self.session.cfg.evaluate_clients_per_round
        if count == 0:
            return []
        cohort = self._sample(count, server_round, grid, "evaluate")
        cohort = self._patch(cohort, server_round, grid)
        broadcast = self._encode(arrays)
        messages = self.inner.configure_evaluate(
            server_round, to_record(broadcast.decoded), config, cast(Grid, Cohort(cohort))
        )
        return self._send(messages, broadcast, server_round, "evaluate")

    def _check_nodes(self) -> None:
        """Refuse nodes that hold several clients, where two of them work at once and remember.

        Flower would keep the state of only one.
        """
        cfg = self.session.cfg
        shared = len(set(self.nodes.values())) < len(self.nodes)
        if shared and self.session.up.remembers and cfg.clients_per_round > 1:
            raise RoundFailedError(
                f"codec.up={short_name(self.session.up.spec)} remembers, and clients share nodes: "
                "start one SuperNode per client, as make run does, or flwr run with "
                f'--federation-config "num-supernodes={cfg.federation.clients}"'
            )

    def _find_nodes(self, grid: Grid) -> None:
        if not self.nodes:
            cfg = self.session.cfg.federation
            self.nodes, setup = find_clients(grid, cfg.clients, cfg.node_timeout)
            self.ledger.add(setup)
            self._check_nodes()

    def _patch(self, cohort: list[int], server_round: int, grid: Grid) -> list[int]:
        """Bring the cohort's frozen weights up to date; return who is.

        Raises
        ------
        RoundFailedError
            If that is nobody.
        """
        nodes = {client: self.nodes[client] for client in cohort}
        timeout = self.session.cfg.federation.reply_timeout
        failed = self.patches.deliver(grid, nodes, server_round, timeout)
        for client, reason in failed.items():
            logger.warning("round %d, left out: client %d: %s", server_round, client, reason)
        ready = [client for client in cohort if client not in failed]
        if not ready:
            raise RoundFailedError(
                f"no client of round {server_round} could be brought up to date:\n  "
                + "\n  ".join(f"client {client}: {reason}" for client, reason in failed.items())
            )
        return ready

    def _sample(self, count: int, server_round: int, grid: Grid, kind: Kind) -> list[int]:
        cfg = self.session.cfg
        self._find_nodes(grid)
        available = sorted(self.nodes)
        if len(available) < count:
            raise RoundFailedError(
                f"round {server_round} needs {count} clients, only {available} have a node"
            )
        # Evaluation draws from a stream of its own: not just those who have trained this round.
        seed = cfg.seed if kind == "train" else turn_seed(cfg.seed, 0, 0)
        return SAMPLERS[cfg.strategy.sampler](available, count, seed, server_round)

    def _encode(self, arrays: ArrayRecord) -> Coding:
        """Code ``arrays`` for the way down, once per model."""
        if self._relay and self._relay[0] is arrays:
            self._source, self._broadcast = self._relay
        if self._broadcast is None or self._source is not arrays:
            here = self.session
            began = time.perf_counter()
            tree = to_tree(arrays, like=here.theta0)
            if self._down_state is None:
                self._down_state = here.down.init(here.theta0, here.cfg.seed)
            wire, self._down_state = here.down.encode(tree, self._down_state, here.theta0)
            frame = pack(wire, here.down, here.manifest)
            seconds = time.perf_counter() - began
            decoded = here.down.decode(wire, here.theta0)
            self._source = arrays
            self._broadcast = Coding(decoded, frame, wire.nbytes, seconds)
        return self._broadcast

    def _send(
        self, messages: Iterable[Message], broadcast: Coding, server_round: int, kind: Kind
    ) -> list[Message]:
        self._pending = []
        for plaintext in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            partition = plaintext.metadata.dst_node_id
            (config,) = plaintext.content.config_records.values()
            content = RecordDict(
                {
                    ARRAYS: pack_record(broadcast.frame),
                    "config": ConfigRecord({**config, **self._addressed(partition)}),
                }
            )
            message = Message(content, self.nodes[partition], plaintext.metadata.message_type)
            weight = message_bytes(message)
            if server_round == 1 and kind == "train":
                self.seed_only_saving += weight - self._seed_only_bytes(message)
            down = Transfer(
                server_round,
                partition,
                "down",
                kind,
                codec=short_name(self.session.down.spec),
                scalars=_scalars(self.session.theta0),
                payload_bytes=broadcast.payload_bytes,
                frame_bytes=len(broadcast.frame),
                message_bytes=weight,
                encode_s=broadcast.encode_s,
                competition_bytes=broadcast.payload_bytes + self.session.alias_bytes,
            )
            self._pending.append(Pending(message, down))
        return [pending.message for pending in self._pending]

    def _addressed(self, partition: int) -> dict[str, int]:
        """Return what only this client is told: who it is, and what was accepted of it."""
        if not self.session.up.remembers:
            return {"partition": partition}
        last = self._received.get(partition)
        return {"partition": partition, ACCEPTED: last.server_round if last else 0}

    def _seed_only_bytes(self, message: Message) -> int:
        config = message.content.config_records["config"]
        seed = ConfigRecord({**config, "seed": self.session.cfg.seed})
        alone = Message(
            RecordDict({"config": seed}),
            message.metadata.dst_node_id,
            message.metadata.message_type,
        )
        return message_bytes(alone)

    # ---- clients to server ----------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies, leave out those that failed, and let the inner strategy aggregate.

        Raises
        ------
        RoundFailedError
            If no reply was usable; the message gives every client's reason.
        """
        usable, reasons = self._receive(server_round, replies, "train")
        if not usable:
            raise RoundFailedError(
                f"every client of round {server_round} failed:\n  " + "\n  ".join(reasons)
            )
        arrays, metrics = self.inner.aggregate_train(server_round, [u.message for u in usable])
        if arrays is None:
            raise RoundFailedError(f"round {server_round}: the strategy returned no model")
        self._relay = self._find_relay(arrays, usable)
        if isinstance(self.inner, Patching):
            patch = self.inner.take_patch()
            self.patches.add(patch, _rank(patch), "train")
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' scores, if there are any."""
        usable, _ = self._receive(server_round, replies, "evaluate")
        if not usable:
            return None
        return self.inner.aggregate_evaluate(server_round, [u.message for u in usable])

    def _receive(
        self, server_round: int, replies: Iterable[Message], kind: Kind
    ) -> tuple[list[Usable], list[str]]:
        """Return the usable replies in the order of their partitions, and why others are not."""
        by_request = {reply.metadata.reply_to_message_id: reply for reply in replies}
        usable: list[Usable] = []
        reasons: list[str] = []
        rows: list[Transfer] = []
        for pending in self._pending:
            rows.append(pending.down)
            partition = pending.down.partition
            reply = by_request.get(pending.message.metadata.message_id)
            if reply is None:
                reasons.append(f"client {partition} did not reply in time")
                continue
            up = Transfer(server_round, partition, "up", kind, message_bytes=message_bytes(reply))
            rows.append(up)
            if reply.has_error():
                reasons.append(f"client {partition}: {reply.error.reason}")
                self.patches.forget(self.nodes[partition])  # it may have lost its state
                continue
            try:
                usable.append(self._decode(reply, pending.down, up))
            except WireError as error:
                reasons.append(f"client {partition}: {error}")
        self._pending = []
        self.ledger.add(rows)
        for reason in reasons:
            logger.warning("round %d, left out: %s", server_round, reason)
        return usable, reasons

    def _decode(self, reply: Message, down: Transfer, up: Transfer) -> Usable:
        """Check a reply, fill in its two ledger rows, and put plain arrays in place of the frame.

        Raises
        ------
        WireError
            If the frame is not one of this codec and theta0, or metrics or timing are not those
            of this app.
        """
        here = self.session
        names = (*EVALUATE_METRICS, *here.task.metrics)
        if up.kind == "train":
            names = PRIVATE_METRICS if is_example_level(here.cfg) else TRAIN_METRICS
        metrics = check_metrics(reply, names)
        timing = check_timing(reply)
        plain = RecordDict({"metrics": MetricRecord({**metrics, WEIGHT_ONE: 1.0})})
        model = None
        if up.kind == "train":
            assert self._broadcast is not None
            began = time.perf_counter()
            frame = unpack_record(reply.content)
            wire = unpack(frame, here.up, here.manifest)
            reference = here.reference(self._broadcast.decoded)
            memory = self._memory(up.partition, reply, reference)
            tree, memory = receive(here.up, wire, reference, memory)
            up.decode_s = time.perf_counter() - began
            up.encode_s = timing["encode"]
            up.codec, up.scalars = short_name(here.up.spec), _scalars(tree)
            up.payload_bytes, up.frame_bytes = wire.nbytes, len(frame)
            up.competition_bytes = wire.nbytes + here.alias_bytes
            plain[ARRAYS] = to_record(tree)
            model = Coding(tree, frame, wire.nbytes, encode_s=0.0)
            self.train_seconds += timing["work"]
            if here.up.remembers:
                self._received[up.partition] = Received(up.round, memory)
        down.decode_s = timing["decode"]
        reply.content = plain
        return Usable(reply, model)

    def _memory(self, partition: int, reply: Message, reference: Tree) -> State:
        """Return the up codec's memory of the client, as of the state that its reply started from.

        Raises
        ------
        WireError
            If that is neither the state of the round accepted last nor a fresh one.
        """
        since = reply.content.config_records[TIMING].get(SINCE, 0)
        if since == 0:
            return self.session.up.init_receiver(reference)
        last = self._received.get(partition)
        if last is None or last.server_round != since:
            accepted = last.server_round if last else "none"
            raise WireError(f"the reply builds on round {since!r}, the last accepted is {accepted}")
        return last.memory

    def _find_relay(
        self, arrays: ArrayRecord, usable: list[Usable]
    ) -> tuple[ArrayRecord, Coding] | None:
        """Return the reply that the new model is, if its bytes mean the same on the way down."""
        here = self.session
        same_meaning = here.up.spec == here.down.spec and here.up.receive is None
        if same_meaning and here.cfg.codec.reference == "theta0":
            for reply in usable:
                if reply.model and reply.message.content[ARRAYS] is arrays:
                    return arrays, reply.model
        return None


def _rank(patch: Tree) -> int:
    """Return the rank of a patch NAME.B [out, rank], NAME.A [rank, in], the same of all modules."""
    return next(iter(patch.values())).shape[1]


def _scalars(tree: Tree) -> int:
    return sum(values.size for values in tree.values())
