"""The ServerApp: runs the strategy of an experiment, and writes results and costs."""

import logging
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.exit import add_exit_handler

from fl_app import data
from fl_app.aggregation import sampling
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config.aliases import overrides_of
from fl_app.faults import FaultError
from fl_app.faults.printable import WithoutTraceback
from fl_app.files import keep_private
from fl_app.preflight import check_strategy
from fl_app.privacy import is_example_level
from fl_app.progress.events import say
from fl_app.report import page
from fl_app.runs import answers, console, exported, model_card, selection
from fl_app.runs.base_model import Base, described
from fl_app.runs.bases import COPY
from fl_app.runs.by_client import OWN, SERVER, on_own_rows, on_test_rows
from fl_app.runs.exported import Parts
from fl_app.runs.folder import RunFolder
from fl_app.runs.node_state import default_state_dir, forget_runs, run_folder
from fl_app.runs.resume import ResumeError
from fl_app.runs.tracking import Tracking
from fl_app.secure_aggregation.settings import is_on as is_secure
from fl_app.server.coded import Coded
from fl_app.server.exchanges import Exchanging, ExchangingCoded
from fl_app.server.forgetting import forgetting
from fl_app.server.round import RoundFailedError
from fl_app.server.secure import SecureCoded
from fl_app.server.start import set_up
from fl_app.session import Session
from fl_app.tasks.forgetting import SOURCE
from fl_app.tree import Tree, digest
from fl_app.wire.records import to_record, to_tree

logger = logging.getLogger("thinwire")
flower = logging.getLogger("flwr")

app = ServerApp()

MESSAGE_ONLY = WithoutTraceback(RoundFailedError, ResumeError, OSError, FaultError)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that ``overrides`` names.

    Raises
    ------
    Exception
        Any error that ends the run early, after the results so far and a summary with status
        "failed" are on disk; Flower then reports the run as failed.
    """
    keep_private()
    flower.setLevel(logging.WARNING)  # the console's table has the same information
    flower.addFilter(MESSAGE_ONLY)
    began = time.perf_counter()
    overrides = overrides_of(context.run_config)
    say("loading the model")
    session = open_session(overrides)
    check_strategy(session.cfg)
    experiment = Experiment(session, grid, overrides, setup_seconds=time.perf_counter() - began)
    # Flower ends a stopped run's process from another thread.
    add_exit_handler(lambda: experiment.finish("interrupted"), run_before_force_exit=True)
    experiment.start()


class Experiment:
    """One run on the server: evaluation, checkpoint and console output after every round.

    Parameters
    ----------
    session : Session
        The session of the run.
    grid : Grid
        Flower's connection to the nodes.
    overrides : str
        What the run was started with.
    setup_seconds : float
        Seconds that building the session took.

    Attributes
    ----------
    folder : RunFolder
        The folder of the run.
    strategy : Coded
        The strategy, with codecs and ledger.
    rounds_done : int
        The last complete round.
    latest : Tree
        The model after it.
    flower_runs : list of int
        Flower's ids of the run, several if it was resumed.
    ended : bool
        Whether the summary has been written.
    """

    def __init__(self, session: Session, grid: Grid, overrides: str, setup_seconds: float) -> None:
        self.session = session
        self.grid = grid
        self.overrides = overrides
        self.setup_seconds = setup_seconds
        self.folder = RunFolder(session.cfg, overrides)
        self.tracking = Tracking(self.folder)
        inner = inner_strategy(session.cfg)
        kind = ExchangingCoded if isinstance(inner, Exchanging) else Coded
        kind = SecureCoded if is_secure(session.cfg) else kind
        self.strategy = kind(inner, session, self.folder.ledger)
        self.strategy.turns = self.folder.turns
        self.rounds_done = 0
        self.flower_runs = [grid.run.run_id]
        self.ended = False
        self.recording = threading.RLock()

    def start(self) -> None:
        """Run all rounds, then write summary, adapter and report."""
        session, cfg = self.session, self.session.cfg
        try:
            self._divide()
            console.header(cfg, self.folder.path, session.theta0)
            self.tracking.start()
            began = time.perf_counter()
            arrays = self._begin()
            self.setup_seconds += time.perf_counter() - began
            self.strategy.start(
                self.grid,
                arrays,
                num_rounds=cfg.rounds,
                timeout=cfg.federation.reply_timeout,
                train_config=ConfigRecord(),
                evaluate_config=ConfigRecord(),
                evaluate_fn=self.after_round,
            )
            if "unseen" in session.data:
                say("scoring the unseen rows")
                self.evaluate("unseen", self.rounds_done, self.latest)
                self._log("unseen")
            self._export(exported.LAST)
            if (best := exported.best(self.folder.path)) is not None:
                exported.describe(best, self._card(exported.BEST))  # later rounds have selected it
            if cfg.output.base == COPY:
                for folder in (self.folder.path / exported.LAST, best):
                    exported.copy_base(folder, cfg)
        except BaseException as error:
            with suppress(OSError):  # a full disk, for example, may have ended the run
                self.finish("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.finish("completed")
        forget_runs(default_state_dir(cfg.output.dir), self.flower_runs)

    def _divide(self) -> None:
        """Read the rows, and say which client each name is where a column names the clients.

        What is wrong with the rows, or with whose they are, is said before the first round.
        """
        rows, partitioner = self.session.data, self.session.cfg.data.partitioner
        if "train" not in rows:
            return
        if left_out := self.session.left_out():
            logger.warning("%s", left_out)
        if "column" in partitioner:
            named = data.named_clients(rows["train"], partitioner)
            self.folder.names = {client: str(name) for client, (name, _) in enumerate(named)}
            console.clients(named)
            self.strategy.shown.names = self.folder.names

    def _begin(self) -> ArrayRecord:
        """Return the model to start from: theta0 after set-up, or that of the checkpoint."""
        if self.folder.checkpoint is None:
            self._check_privacy()
            if self.session.setup is not None:
                say("set-up of the adapter")
            set_up(self.strategy, self.grid)
            self.latest = self.session.theta0
            return to_record(self.latest)
        kept, state = self.folder.checkpoint
        start = f"resume={self.session.cfg.resume}: the checkpoint"
        if {*kept} != {*self.session.theta0}:
            raise ResumeError(
                f"{start} contains other tensors than the model: it is damaged or of another "
                "version; start a new run"
            )
        # Restore the order of theta0: a file is ordered by name.
        self.latest = {name: kept[name] for name in self.session.theta0}
        arrays = to_record(self.latest)
        try:
            self.strategy.restore(state["strategy"], arrays)
            self.rounds_done = self.strategy.rounds_done
            self.setup_seconds += state["setup_seconds"]
            self.strategy.clients.continues = [run_folder(one) for one in state["flower_runs"]]
            self.flower_runs = [*state["flower_runs"], *self.flower_runs]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ResumeError(
                f"{start} is not one of this strategy ({type(error).__name__}: {error}): it is "
                "damaged or of another version; start a new run"
            ) from None
        self._keep_best()
        self._check_privacy()
        self._keep(arrays)  # from now on nodes keep their state under the new id
        return arrays

    def _keep(self, arrays: ArrayRecord) -> None:
        state = {
            "strategy": self.strategy.state(arrays),
            "setup_seconds": self.setup_seconds,
            "flower_runs": self.flower_runs,
        }
        self.folder.keep(self.rounds_done, self.latest, state)

    def _keep_best(self) -> None:
        """Export the model, if the validation rows say that it is the best one so far."""
        metric, metrics = self.session.cfg.target.metric, self.folder.metrics
        validated = selection.selected_on(metrics, metric) == selection.VALIDATION
        if validated and selection.best_round(metrics, metric) == self.rounds_done:
            self._export(exported.BEST)

    def _export(self, name: str) -> None:
        """Write the model after the last complete round into the run's folder."""
        session = self.session
        session.adapter.set(session.model, self.latest)
        exported.write(
            self.folder.path,
            name,
            lambda folder: session.adapter.export(session.model, folder),
            Parts(session.cfg, session.tokenizer, session.task, session.generation, self._base),
            self._card(name),
        )

    @cached_property
    def _base(self) -> Base:
        return described(self.session.cfg.model)

    def _card(self, name: str) -> str:
        """Return the card of the model in the folder ``name``."""
        data = {split: (len(rows), rows.column_names) for split, rows in self.session.data.items()}
        facts = model_card.Facts(
            self.session.cfg, self._base, data, self.folder.metrics, self.folder.ledger,
            digest(self.session.theta0), self._privacy_spent(), self.strategy.router is not None,
        )  # fmt: skip
        return model_card.text(facts, name)

    def after_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Score the global model, write the checkpoint, and report both.

        Raises
        ------
        InterruptedError
            If the run has ended: its summary would not contain this round.
        """
        with self.recording:
            if self.ended:
                raise InterruptedError("the run was stopped")
            self.latest = to_tree(arrays, like=self.session.theta0)
            self.rounds_done = server_round
            self.strategy.shown.scoring(server_round)
            splits = [x for x in ("validation", SOURCE, "test") if x in self.session.data]
            scores = {split: self.evaluate(split, server_round, self.latest) for split in splits}
            self._keep_answers(server_round)
            self._keep(arrays)
            self._keep_best()
            console.round_line(self.folder, server_round)
            self._log(*splits)
            return MetricRecord(dict(scores["test"]))

    def evaluate(self, split: str, server_round: int, tree: Tree) -> dict[str, float]:
        """Score ``tree`` on a split of the server's data and add it to metrics.csv."""
        began = time.perf_counter()
        scores = self.session.evaluate(tree, self.session.data[split], self.strategy.router)
        if split == SOURCE:
            scores |= forgetting(self.session, self.folder, tree, scores)
        self.folder.add_metrics(server_round, split, scores)
        self.folder.evaluate_seconds += time.perf_counter() - began
        return scores

    def _keep_answers(self, server_round: int) -> None:
        """Write down what the model that was scored last, on the test rows, has answered."""
        best = selection.best_round(self.folder.metrics, self.session.cfg.target.metric)
        models = [answers.LAST]
        models += [answers.START] if server_round == 0 else []
        models += [answers.BEST] if server_round == best else []
        task, rows = self.session.task, self.session.data["test"]
        said = self.session.predictions
        own = on_own_rows(self.strategy.client_scores, self.folder.names)
        column = self.session.cfg.data.partitioner.get("column")
        answers.update(
            self.folder.path,
            models,
            self.session.cfg.seed,
            said,
            lambda: task.shown(rows),
            getattr(task, "classes", None),
            {SERVER: on_test_rows(task, said, rows, column), OWN: own},
        )

    def finish(self, status: str) -> None:
        """Write summary.json and report.html, and print the final table; later calls do nothing."""
        with self.recording:
            if not self.ended:
                self.ended = True
                try:
                    self._finish(status)
                finally:
                    self.folder.release()

    def _log(self, *splits: str) -> None:
        """Pass the scores of the last round on these splits to the loggers."""
        with self.recording:
            total = time.perf_counter() - self.folder.started + self.setup_seconds
            seconds = {"total": total, "train": self.strategy.uplink.train_seconds}
            self.tracking.log(self.rounds_done, splits, seconds)

    def _check_privacy(self) -> None:
        """Check before the first round that each client's noise suffices for all its turns.

        A client for whose number of rows there is no suitable noise is left out: its answer must
        not end the run for the others. An interrupted round is repeated if the budget allows it;
        otherwise it has no result, since its clients have already spent their turn.

        Raises
        ------
        ValueError
            If there is no suitable noise for any client, or a client would take more turns than
            its noise allows.
        """
        cfg, turns = self.session.cfg, self.folder.turns
        if not is_example_level(cfg) or turns is None:
            return
        # It imports an optional dependency, which not every server has.
        from fl_app.privacy.budget import check_turns, mechanism

        # Only the nodes know how many rows they have.
        self.strategy.clients.find(self.grid, self.strategy.rounds_done)
        without: dict[int, str] = {}
        for client in self.strategy.clients.nodes:
            try:
                mechanism(cfg, self.strategy.clients.rows[client])
            except ValueError as error:
                without[client] = str(error)
        if len(without) == len(self.strategy.clients.nodes):
            raise ValueError(next(iter(without.values())))
        self.strategy.clients.leave_out(without, self.strategy.rounds_done)
        try:
            check_turns(cfg, turns.count() + self._planned())
        except ValueError:
            if turns.last <= self.rounds_done:
                raise
            logger.warning(
                "rounds %d to %d were interrupted and are not repeated: their clients have spent "
                "the turns that their noise allows",
                self.rounds_done + 1, turns.last,
            )  # fmt: skip
            self.rounds_done = self.strategy.rounds_done = turns.last
            check_turns(cfg, turns.count() + self._planned())

    def _planned(self) -> Counter[int]:
        """Return how often each client is sampled in the rounds to come."""
        cfg, nodes = self.session.cfg, sorted(self.strategy.clients.nodes)
        if len(nodes) < cfg.clients_per_round:
            return Counter()  # the first round reports this error
        rounds = range(self.rounds_done + 1, cfg.rounds + 1)
        return sampling.turns(cfg.strategy.sampler, nodes, cfg.clients_per_round, cfg.seed, rounds)

    def _privacy_spent(self) -> dict[str, Any] | None:
        turns = self.folder.turns
        if turns is None or not turns.asked:
            return None
        from fl_app.privacy.budget import spent

        reported = self.strategy.uplink.spent
        return spent(self.session.cfg, self.strategy.clients.rows, turns.count(), reported)

    def _finish(self, status: str) -> None:
        session = self.session
        summary = self.folder.finish(
            status,
            self.overrides,
            {
                "rounds": self.rounds_done,
                "trainable_scalars": sum(x.size for x in session.theta0.values()),
                "theta0_digest": digest(session.theta0),
                "seed_only_saving": self.strategy.seed_only_saving,
                "train_seconds": self.strategy.uplink.train_seconds,
                "setup_seconds": self.setup_seconds,
                "device": session.device_name,
                "privacy": self._privacy_spent(),
                "absent": self.strategy.clients.absent,
            },
        )
        page.write(self.folder.path)
        self.tracking.finish(status, summary)
        console.final(summary, self.folder.path)
