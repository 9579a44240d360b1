"""``Coded``: gives any Flower strategy a codec for each direction, and a ledger.

The inner strategy sees plain arrays and partition ids; clients see one packed Array. Its other
half, on the client, is ``fl_app.mods.coded``.
"""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import hydra
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_app.codecs import WireError
from fl_app.config import plain
from fl_app.ledger import Kind, Ledger, Transfer, short_name
from fl_app.mods import TIMING
from fl_app.records import (
    ARRAYS,
    METRICS,
    message_bytes,
    pack_record,
    to_record,
    to_tree,
    unpack_record,
)
from fl_app.session import Session
from fl_app.tree import Tree
from fl_app.wire import pack, unpack
from strategies.nodes import find_clients
from strategies.sampling import SAMPLERS

logger = logging.getLogger("thinwire")

REFERENCES = ("theta0", "broadcast")
WEIGHT_ONE = "one"  # a metric that is 1 for every client, for weighted_by_key


class RoundFailedError(RuntimeError):
    """No client of a round gave a usable reply."""


def inner_strategy(cfg: DictConfig) -> Strategy:
    """Build the strategy that ``strategy.inner`` names, to train whoever Coded has sampled.

    Raises
    ------
    ValueError
        If the target is no Flower strategy or does not take the arguments given.
    """
    everyone = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
    }
    try:
        inner = hydra.utils.instantiate(plain(cfg.strategy.inner), **everyone)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"strategy.inner={cfg.strategy.inner._target_}: {cause}") from None
    if not isinstance(inner, Strategy):
        raise ValueError(f"strategy.inner={cfg.strategy.inner._target_} is no Flower strategy")
    return inner


class Cohort:
    """The sampled clients as the inner strategy's whole world: node ids are partition ids."""

    def __init__(self, partitions: list[int]) -> None:
        self.partitions = partitions

    def get_node_ids(self) -> list[int]:
        """Return the partitions of this round."""
        return self.partitions


def check_metrics(reply: Message, kind: Kind) -> MetricRecord:
    """Return the metrics of a reply.

    Raises
    ------
    WireError
        If they are not exactly those of this app, each one finite number: Flower's aggregation
        would fail for all clients, or weigh one of them at will.
    """
    records = list(reply.content.metric_records.values())
    if len(records) != 1 or {*records[0]} != {*METRICS[kind]}:
        found = [sorted(record) for record in records]
        raise WireError(f"the reply has metrics {found}, expected {sorted(METRICS[kind])}")
    for name, value in records[0].items():
        if isinstance(value, list) or not math.isfinite(value):
            raise WireError(f"metric {name}={value} is not one finite number")
    if not 0 < cast(float, records[0]["num-examples"]) < 2**53:
        raise WireError(f"num-examples={records[0]['num-examples']} is no number of examples")
    return records[0]


@dataclass
class Broadcast:
    """A model as it leaves the server, coded once for all clients of a round."""

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
    _broadcast: Broadcast | None = None
    _source: ArrayRecord | None = None
    _relay: tuple[ArrayRecord, Broadcast] | None = None

    def summary(self) -> None:
        """Log the inner strategy's settings."""
        self.inner.summary()

    # ---- server to clients ----------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by partition and send them the coded model."""
        cfg = self.session.cfg
        cohort = self._sample(cfg.clients_per_round, server_round, grid)
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
        cohort = self._sample(count, server_round, grid)
        broadcast = self._encode(arrays)
        messages = self.inner.configure_evaluate(
            server_round, to_record(broadcast.decoded), config, cast(Grid, Cohort(cohort))
        )
        return self._send(messages, broadcast, server_round, "evaluate")

    def _sample(self, count: int, server_round: int, grid: Grid) -> list[int]:
        cfg = self.session.cfg
        if not self.nodes:
            self.nodes, setup = find_clients(
                grid, cfg.federation.clients, cfg.federation.node_timeout
            )
            self.ledger.add(setup)
        available = sorted(self.nodes)
        if len(available) < count:
            raise RoundFailedError(
                f"round {server_round} needs {count} clients, only {available} have a node"
            )
        return SAMPLERS[cfg.strategy.sampler](available, count, cfg.seed, server_round)

    def _encode(self, arrays: ArrayRecord) -> Broadcast:
        """Code ``arrays`` for the way down, once per model."""
        if self._relay and self._relay[0] is arrays:
            self._source, self._broadcast = self._relay
        if self._broadcast is None or self._source is not arrays:
            here = self.session
            began = time.perf_counter()
            tree = to_tree(arrays, like=here.theta0)
            wire, _ = here.down.encode(tree, here.down.init(here.theta0), here.theta0)
            frame = pack(wire, here.down, here.manifest)
            seconds = time.perf_counter() - began
            decoded = here.down.decode(wire, here.theta0)
            self._source = arrays
            self._broadcast = Broadcast(decoded, frame, wire.nbytes, seconds)
        return self._broadcast

    def _send(
        self, messages: Iterable[Message], broadcast: Broadcast, server_round: int, kind: Kind
    ) -> list[Message]:
        self._pending = []
        for plaintext in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            partition = plaintext.metadata.dst_node_id
            (config,) = plaintext.content.config_records.values()
            content = RecordDict(
                {
                    ARRAYS: pack_record(broadcast.frame),
                    "config": ConfigRecord({**config, "partition": partition}),
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
                scalars=sum(x.size for x in self.session.theta0.values()),
                payload_bytes=broadcast.payload_bytes,
                frame_bytes=len(broadcast.frame),
                message_bytes=weight,
                encode_s=broadcast.encode_s,
            )
            self._pending.append(Pending(message, down))
        return [pending.message for pending in self._pending]

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
        usable = self._receive(server_round, replies, "train")
        arrays, metrics = self.inner.aggregate_train(server_round, list(usable))
        if arrays is None:
            raise RoundFailedError(f"round {server_round}: the strategy returned no model")
        self._relay = self._find_relay(arrays, usable)
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' scores."""
        if not self._pending:
            return None
        usable = self._receive(server_round, replies, "evaluate")
        return self.inner.aggregate_evaluate(server_round, list(usable))

    def _receive(
        self, server_round: int, replies: Iterable[Message], kind: Kind
    ) -> dict[Message, Broadcast | None]:
        """Return the usable replies with plain arrays, in the order of their partitions."""
        by_request = {reply.metadata.reply_to_message_id: reply for reply in replies}
        usable: dict[Message, Broadcast | None] = {}
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
                continue
            try:
                usable[reply] = self._decode(reply, up)
                timing = reply.content.config_records[TIMING]
                pending.down.decode_s = float(cast(float, timing["decode"]))
                up.encode_s = float(cast(float, timing["encode"]))
                self.train_seconds += float(cast(float, timing["work"])) * (kind == "train")
                del reply.content[TIMING]
            except (ValueError, KeyError, TypeError) as error:
                usable.pop(reply, None)
                reasons.append(f"client {partition}: {type(error).__name__}: {error}")
        self._pending = []
        self.ledger.add(rows)
        for reason in reasons:
            logger.warning("round %d, left out: %s", server_round, reason)
        if not usable:
            raise RoundFailedError(
                f"every client of round {server_round} failed:\n  " + "\n  ".join(reasons)
            )
        return usable

    def _decode(self, reply: Message, up: Transfer) -> Broadcast | None:
        """Replace the frame of ``reply`` by plain arrays; return what it would be as a broadcast.

        Raises
        ------
        WireError
            If the frame is not one of this codec and theta0.
        """
        metrics = check_metrics(reply, up.kind)
        metrics[WEIGHT_ONE] = 1.0
        if up.kind == "evaluate":
            return None
        here = self.session
        assert self._broadcast is not None
        began = time.perf_counter()
        frame = unpack_record(reply.content)
        wire = unpack(frame, here.up, here.manifest)
        tree = here.up.decode(wire, here.reference(self._broadcast.decoded))
        up.decode_s = time.perf_counter() - began
        up.codec, up.frame_bytes, up.payload_bytes = (
            short_name(here.up.spec),
            len(frame),
            wire.nbytes,
        )
        up.scalars = sum(x.size for x in tree.values())
        reply.content[ARRAYS] = to_record(tree)
        return Broadcast(tree, frame, wire.nbytes, 0.0)

    def _find_relay(
        self, arrays: ArrayRecord, usable: dict[Message, Broadcast | None]
    ) -> tuple[ArrayRecord, Broadcast] | None:
        """Return the reply that the new model is, if its bytes mean the same on the way down."""
        here = self.session
        if here.up.spec == here.down.spec and here.cfg.codec.reference == "theta0":
            for reply, broadcast in usable.items():
                if broadcast and reply.content[ARRAYS] is arrays:
                    return arrays, broadcast
        return None
