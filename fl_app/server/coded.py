"""``Coded``: gives any Flower strategy a codec for each direction, and a ledger.

The inner strategy sees plain arrays and partition ids; clients see one packed Array. Its other
half, on the client, is ``fl_app.client.coded.coded``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_app.aggregation import inner_state
from fl_app.aggregation.inner import Cohort
from fl_app.aggregation.mean import Mean, is_mean_type
from fl_app.aggregation.sampling import SAMPLERS
from fl_app.config import plain
from fl_app.privacy import is_example_level
from fl_app.privacy.turns import Turns
from fl_app.seeds import turn_seed
from fl_app.server.downlink import Coding, Downlink
from fl_app.server.mailbox import Mailbox
from fl_app.server.nodes import find_clients
from fl_app.server.patches import Patches, Patching
from fl_app.server.round import Pending, Round, Usable, left_out
from fl_app.server.uplink import Uplink
from fl_app.session import Session
from fl_app.tree import scalars
from fl_app.wire.ledger import Kind, Ledger, Transfer, short_name
from fl_app.wire.messages import ACCEPTED, ARRAYS
from fl_app.wire.records import message_bytes, pack_record, to_record


class RoundFailedError(RuntimeError):
    """Too few clients of a round gave a usable reply."""


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

    Attributes
    ----------
    seed_only_saving : int
        Message bytes that the first round's downloads would save if they brought only the seed,
        from which every client can rebuild theta0.
    rounds_done : int
        Rounds that need not be run again, see `restore`.
    continues : list of str
        Ids of the runs that this one continues, for nodes to find what their codecs remember.
    turns : Turns or None
        Where it is written whom a round asks, before they are asked; where training is private.
    """

    inner: Strategy
    session: Session
    ledger: Ledger
    seed_only_saving: int = 0
    rounds_done: int = 0
    restored: bool = False
    continues: list[str] = field(default_factory=list)
    nodes: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    turns: Turns | None = None
    _asked: Round | None = None

    def __post_init__(self) -> None:
        self.patches = Patches(self.session, self.ledger)
        self.downlink = Downlink(self.session)
        self.uplink = Uplink(self.session, self.ledger)

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
        broadcast = self.downlink.encode(arrays)
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
        broadcast = self.downlink.encode(arrays)
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

    def find_nodes(self, grid: Grid) -> None:
        """Ask the nodes what they serve, once; TimeoutError if none answers."""
        if not self.nodes:
            cfg = self.session.cfg.federation
            private = is_example_level(self.session.cfg)
            continues = self.continues if self.session.up.remembers or private else []
            found = find_clients(
                grid, cfg.clients, cfg.node_timeout, continues, plain(cfg.clients_per_node),
                private=private,
            )  # fmt: skip
            self.nodes = found.nodes
            self.rows |= found.rows
            # Of a run that goes on, nodes are asked again; what that costs is its next round's.
            at = self.rounds_done + 1 if self.rounds_done else 0
            self.ledger.add(replace(row, round=at) for row in found.transfers)
            self._check_nodes()

    def leave_out(self, clients: Mapping[int, str]) -> None:
        """Ask these clients for nothing in this run, each for a reason."""
        for client, why in clients.items():
            left_out(self.rounds_done, client, why)
            self.nodes.pop(client)
            self.rows.pop(client, None)

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
            left_out(server_round, client, reason)
        ready = [client for client in cohort if client not in failed]
        if not ready:
            raise RoundFailedError(
                f"no client of round {server_round} could be brought up to date:\n  "
                + "\n  ".join(f"client {client}: {reason}" for client, reason in failed.items())
            )
        return ready

    def _sample(self, count: int, server_round: int, grid: Grid, kind: Kind) -> list[int]:
        cfg = self.session.cfg
        self.find_nodes(grid)
        available = sorted(self.nodes)
        if len(available) < count:
            raise RoundFailedError(
                f"round {server_round} needs {count} clients, only {available} have a node"
            )
        # Evaluation draws from a stream of its own: not just those who have trained this round.
        seed = cfg.seed if kind == "train" else turn_seed(cfg.seed, 0, 0)
        return SAMPLERS[cfg.strategy.sampler](available, count, seed, server_round)

    def _send(
        self, messages: Iterable[Message], broadcast: Coding, server_round: int, kind: Kind
    ) -> list[Message]:
        pending: list[Pending] = []
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
                scalars=scalars(self.session.theta0),
                payload_bytes=broadcast.payload_bytes,
                frame_bytes=len(broadcast.frame),
                message_bytes=weight,
                encode_s=broadcast.encode_s,
                competition_bytes=broadcast.payload_bytes + self.session.alias_bytes,
            )
            pending.append(Pending(message, down))
        if self.turns is not None and kind == "train":
            self.turns.add(server_round, [one.down.partition for one in pending])
        self._asked = Round(server_round, kind, broadcast, pending)
        return [one.message for one in pending]

    def _addressed(self, partition: int) -> dict[str, int]:
        """Return what only this client is told: who it is, and what was accepted of it."""
        if not self.session.up.remembers:
            return {"partition": partition}
        return {"partition": partition, ACCEPTED: self.uplink.accepted(partition)}

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
        """Decode the replies as they come, and let the inner strategy aggregate.

        Of a mean-type strategy, only the mean of the replies is kept, see
        ``fl_app.aggregation.mean``.

        Raises
        ------
        RoundFailedError
            If fewer replies are usable than ``federation.min_replies``, or a larger share is not
            than ``federation.max_failures``; the message gives every client's reason.
        """
        asked = self._asked_for(server_round, "train")
        arriving = self.uplink.receive(asked, replies)
        usable: list[Usable] = []
        if is_mean_type(self.inner):
            plain = self._mean(arriving)
        else:
            usable = sorted(arriving, key=lambda one: one.partition)
            plain = [one.plain() for one in usable]
        self._check_enough(asked)
        arrays, metrics = self.inner.aggregate_train(server_round, plain)
        if arrays is None:
            raise RoundFailedError(f"round {server_round}: the strategy returned no model")
        self._relay(arrays, usable)
        if isinstance(self.inner, Patching):
            self.patches.add(self.inner.take_patch(), "train")
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' scores, if there are any."""
        if self._asked is None or self._asked.kind != "evaluate":
            return None
        arriving = self.uplink.receive(self._asked_for(server_round, "evaluate"), replies)
        usable = sorted(arriving, key=lambda one: one.partition)
        if not usable:
            return None
        return self.inner.aggregate_evaluate(server_round, [one.message for one in usable])

    def _asked_for(self, server_round: int, kind: Kind) -> Round:
        asked, self._asked = self._asked, None
        assert asked is not None
        assert (asked.number, asked.kind) == (server_round, kind)
        return asked

    def _mean(self, arriving: Iterable[Usable]) -> list[Message]:
        """Return one message that stands for all: of the mean model, with the whole weight."""
        mean, key = Mean(), cast(Any, self.inner).weighted_by_key
        last = None
        for one in arriving:
            assert one.tree is not None
            metrics = cast(Any, one.message.content["metrics"])
            mean.add(one.tree, metrics[key], metrics)
            last = one.message
        if last is None:
            return []
        whole = MetricRecord({**mean.metrics(), key: mean.weight})
        last.content = RecordDict({ARRAYS: to_record(mean.tree()), "metrics": whole})
        return [last]

    def _check_enough(self, asked: Round) -> None:
        """Raise RoundFailedError if too many clients failed; crashed ones get patches anew."""
        for client in asked.crashed:
            self.patches.forget(self.nodes[client])  # it may have lost its state
        limits = self.session.cfg.federation
        failed, count = asked.failed, len(asked.pending)
        reasons = "\n  ".join(f"client {k}: {failed[k]}" for k in sorted(failed))
        if len(failed) == count:
            raise RoundFailedError(f"every client of round {asked.number} failed:\n  {reasons}")
        usable = count - len(failed)
        if usable < limits.min_replies or len(failed) > limits.max_failures * count:
            raise RoundFailedError(
                f"round {asked.number}: {usable} of {count} replies are usable, where "
                f"federation.min_replies={limits.min_replies} and "
                f"federation.max_failures={limits.max_failures:g}:\n  {reasons}"
            )

    def _relay(self, arrays: ArrayRecord, usable: list[Usable]) -> None:
        """Have the reply that the new model is sent on as it came."""
        for one in usable:
            if one.message.content[ARRAYS] is arrays and one.relayed and self.downlink.relays():
                self.downlink.relay(arrays, one.relayed)

    # ---- the run --------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds after ``rounds_done``, as Flower's ``Strategy.start`` does.

        Unlike it, replies are aggregated while others are still under way, and ``evaluate_fn``
        scores the initial arrays only if they are not those of a checkpoint.
        """
        mailbox, result = Mailbox(grid), Result(arrays=initial_arrays)
        train_config = train_config or ConfigRecord()
        evaluate_config = evaluate_config or ConfigRecord()

        def score(number: int) -> None:
            if evaluate_fn and (scores := evaluate_fn(number, result.arrays)):
                result.evaluate_metrics_serverapp[number] = scores

        if not self.restored:
            score(0)
        for number in range(self.rounds_done + 1, num_rounds + 1):
            messages = self.configure_train(number, result.arrays, train_config, grid)
            arrays, metrics = self.aggregate_train(number, mailbox.ask(messages, timeout))
            result.arrays = cast(ArrayRecord, arrays)
            if metrics:
                result.train_metrics_clientapp[number] = metrics
            messages = self.configure_evaluate(number, result.arrays, evaluate_config, grid)
            metrics = self.aggregate_evaluate(number, mailbox.ask(messages, timeout))
            if metrics:
                result.evaluate_metrics_clientapp[number] = metrics
            self.rounds_done = number
            score(number)
        return result

    def state(self, arrays: ArrayRecord) -> dict[str, Any]:
        """Return what `restore` needs to go on after the round that made ``arrays``."""
        return {
            "rounds_done": self.rounds_done,
            "seed_only_saving": self.seed_only_saving,
            "rows": [[client, count] for client, count in self.rows.items()],
            "inner": inner_state.get(self.inner),
            "patches": self.patches.state(self.nodes),
            "downlink": self.downlink.state(arrays),
            "uplink": self.uplink.state(),
        }

    def restore(self, state: dict[str, Any], arrays: ArrayRecord) -> None:
        """Go on from ``state`` with the model ``arrays``; nodes get patches anew.

        Raises
        ------
        ValueError
            If the state is not one of this strategy.
        """
        self.restored, self.rounds_done = True, state["rounds_done"]
        self.seed_only_saving = state["seed_only_saving"]
        self.rows = dict(state["rows"])
        self.session.derive()
        self.patches.restore(state["patches"])  # first: frames are of the patched model
        inner_state.put(self.inner, state["inner"])
        self.downlink.restore(state["downlink"], arrays)
        self.uplink.restore(state["uplink"])
