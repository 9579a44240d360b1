"""``Coded``: gives any Flower strategy a codec for each direction, and a ledger.

The inner strategy sees plain arrays and partition ids; clients see one packed Array. Its other
half, on the client, is ``fl_app.client.turn.turn``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_app.aggregation import inner_state
from fl_app.aggregation.inner import Cohort
from fl_app.aggregation.mean import is_mean_type
from fl_app.codecs.by_part import MODEL
from fl_app.privacy.turns import Turns
from fl_app.server.clients import Clients
from fl_app.server.downlink import Downlink
from fl_app.server.patches import Patches, Patching
from fl_app.server.round import WEIGHT_ONE, Round, RoundFailedError, Usable, averaged
from fl_app.server.rounds import run_rounds
from fl_app.server.sending import Sender
from fl_app.server.shown import Shown
from fl_app.server.uplink import Uplink
from fl_app.session import Router, Session
from fl_app.wire.ledger import Kind, Ledger
from fl_app.wire.messages import ACCEPTED, ARRAYS
from fl_app.wire.readers import PARTITION
from fl_app.wire.records import to_record


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
    sends_theta0 : bool
        Whether the first downloads bring theta0 also where every client can rebuild it.

    Attributes
    ----------
    clients : Clients
        Who serves whom.
    seed_only_saving : int
        Message bytes that the first round's downloads would save if they brought only the seed,
        from which every client can rebuild theta0; 0 where they do.
    rounds_done : int
        Rounds that need not be run again, see `restore`.
    turns : Turns or None
        Where it is written whom a round asks, before they are asked; where training is private.
    client_scores : dict of int to dict
        The numbers of examples and scores that clients gave the model of the last round.
    shown : Shown
        Tells what happens while it happens.
    """

    inner: Strategy
    session: Session
    ledger: Ledger
    sends_theta0: bool = False
    seed_only_saving: int = 0
    rounds_done: int = 0
    restored: bool = False
    turns: Turns | None = None
    client_scores: dict[int, dict[str, float]] = field(default_factory=dict)
    _asked: Round | None = None

    def __post_init__(self) -> None:
        self.clients = Clients(self.session, self.ledger)
        self.patches = Patches(self.session, self.ledger)
        self.downlink = Downlink(self.session)
        self.uplink = Uplink(self.session, self.ledger, self.clients.claims)
        self.shown = Shown(self.session.cfg.rounds, self.ledger)

    @property
    def router(self) -> Router | None:
        """Return what says which model answers which rows; None of a strategy with one model."""
        return getattr(self.inner, "groups", None) if getattr(self.inner, "routes", True) else None

    def summary(self) -> None:
        """Log the inner strategy's settings."""
        self.inner.summary()

    # ---- server to clients ----------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients by partition and send them the coded model, and other parts."""
        count = self.session.cfg.clients_per_round
        return self._ask("train", count, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the coded model to the clients that score it; none by default."""
        count = self.session.cfg.evaluate_clients_per_round
        return self._ask("evaluate", count, server_round, arrays, config, grid) if count else []

    def _ask(
        self,
        kind: Kind,
        count: int,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        """Return the messages of a round: what the inner strategy says, coded and addressed."""
        self.clients.find(grid, self.rounds_done)
        cohort = self.clients.sample(count, server_round, kind)
        cohort = self._prepare(cohort, server_round, grid)
        plain = to_record(self.downlink.encode(arrays).decoded)
        configure = getattr(self.inner, f"configure_{kind}")
        messages = configure(server_round, plain, config, cast(Grid, Cohort(cohort)))
        sender = Sender(
            self.session, self.downlink, server_round, kind, {id(plain): arrays}, self.sends_theta0
        )
        pending = []
        for message in sorted(messages, key=lambda one: one.metadata.dst_node_id):
            client = message.metadata.dst_node_id
            node, addressed = self.clients.nodes[client], self._addressed(client)
            pending.append(sender.coded(message, node, addressed))
            if self.clients.claims is not None:
                pending[-1].down.partition = self.clients.claims.get(client)
        self.seed_only_saving += sum(one.seed_only_saving for one in pending)
        if self.turns is not None and kind == "train":
            self.turns.add(server_round, [one.down.partition for one in pending])
        self._asked = Round(server_round, kind, pending, arrays)
        for one in pending:
            if self.uplink.link.is_lost(one.client, "down", server_round):
                self._asked.unreached.add(one.client)
                one.down.received_bytes = 0
        self.shown.asked(self._asked, by_node=self.clients.claims is not None)
        return [one.message for one in pending if one.client not in self._asked.unreached]

    def _prepare(self, cohort: list[int], server_round: int, grid: Grid) -> list[int]:
        """Give the cohort the patches that it lacks; return who has them all."""
        nodes = {client: self.clients.nodes[client] for client in cohort}
        timeout = self.session.cfg.federation.reply_timeout
        return self.patches.bring_up_to_date(grid, nodes, server_round, timeout)

    def _addressed(self, partition: int) -> dict[str, Any]:
        """Return what only this client is told: who it is, and what was accepted of it."""
        if self.clients.by_node:
            return {}
        if not self.session.remembers:
            return {PARTITION: partition}
        return {PARTITION: partition, ACCEPTED: self.uplink.accepted(partition)}

    # ---- clients to server ----------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies as they come, and let the inner strategy aggregate.

        Of a mean-type strategy, only the mean of the replies is kept, see
        ``fl_app.aggregation.mean``. Silent replies are not shown to it; where every client stays
        silent, the model stays as it is, unless the strategy's class has ``moves_in_silence``.

        Raises
        ------
        RoundFailedError
            If fewer replies are usable than ``federation.min_replies``, or a larger share is not
            than ``federation.max_failures``; the message gives every client's reason.
        """
        asked = self._asked_for(server_round, "train")
        arriving = self._receive(asked, replies)
        usable: list[Usable] = []
        if is_mean_type(self.inner):
            plain = averaged(arriving, cast(Any, self.inner).weighted_by_key)
        else:
            usable = sorted(arriving, key=lambda one: one.partition)
            plain = [one.plain() for one in usable if one.parts]
        self._settle(asked)
        if not plain and not getattr(self.inner, "moves_in_silence", False):
            return asked.arrays, None
        arrays, metrics = self.inner.aggregate_train(server_round, plain)
        if arrays is None:
            raise RoundFailedError(f"round {server_round}: the strategy returned no model")
        self._relay(arrays, usable, asked)
        if isinstance(self.inner, Patching):
            self.patches.add(self.inner.take_patch(), "train")
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' scores, if there are any."""
        if self._asked is None or self._asked.kind != "evaluate":
            return None
        arriving = self._receive(self._asked_for(server_round, "evaluate"), replies)
        usable = sorted(arriving, key=lambda one: one.partition)
        self.client_scores = {one.partition: _said(one) for one in usable}
        if not usable:
            return None
        return self.inner.aggregate_evaluate(server_round, [one.message for one in usable])

    def _receive(self, asked: Round, replies: Iterable[Message]) -> Iterator[Usable]:
        return self.uplink.receive(asked, self.shown.arriving(asked, replies))

    def _settle(self, asked: Round) -> None:
        """Check that enough clients replied; those that crashed get patches anew."""
        for client in asked.crashed:
            self.patches.forget(self.clients.nodes[client])  # it may have lost its state
        asked.check_enough(self.session.cfg.federation)

    def _asked_for(self, server_round: int, kind: Kind) -> Round:
        asked, self._asked = self._asked, None
        assert asked is not None
        assert (asked.number, asked.kind) == (server_round, kind)
        return asked

    def _relay(self, arrays: ArrayRecord, usable: list[Usable], asked: Round) -> None:
        """Have the reply that the new model is sent on as it came."""
        starts = {one.down.partition: one.start for one in asked.pending}
        for one in usable:
            if one.message.content.get(ARRAYS) is not arrays or not one.relayed:
                continue
            if self.downlink.relays(starts[one.partition][MODEL]):
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

        def done(number: int) -> None:
            self.rounds_done = number

        return run_rounds(
            self,
            grid,
            initial_arrays,
            range(self.rounds_done + 1, num_rounds + 1),
            timeout=timeout,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
            score_first=not self.restored,
            after=done,
        )

    def state(self, arrays: ArrayRecord) -> dict[str, Any]:
        """Return what `restore` needs to go on after the round that made ``arrays``."""
        return {
            "rounds_done": self.rounds_done,
            "seed_only_saving": self.seed_only_saving,
            "rows": [[client, count] for client, count in self.clients.rows.items()],
            "inner": inner_state.get(self.inner),
            "patches": self.patches.state(self.clients.nodes),
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
        self.clients.rows = dict(state["rows"])
        self.session.derive()
        self.patches.restore(state["patches"])  # first: frames are of the patched model
        inner_state.put(self.inner, state["inner"])
        self.downlink.restore(state["downlink"], arrays)
        self.uplink.restore(state["uplink"])


def _said(usable: Usable) -> dict[str, float]:
    """Return the number of examples and the scores in a reply."""
    metrics = cast(dict[str, float], dict(usable.message.content["metrics"]))
    return {name: value for name, value in metrics.items() if name != WEIGHT_ONE}
