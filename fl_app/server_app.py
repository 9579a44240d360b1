"""The ServerApp: composes the run, lets the strategy work, and writes what it cost and brought."""

import logging
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.exit import add_exit_handler

from fl_app import report
from fl_app.aggregation import sampling
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import session
from fl_app.faults.printable import WithoutTraceback
from fl_app.files import keep_private
from fl_app.preflight import check_strategy
from fl_app.privacy import is_example_level
from fl_app.runs import console, model_card
from fl_app.runs.folder import RunFolder
from fl_app.runs.node_state import default_state_dir, forget_runs, run_folder
from fl_app.runs.resume import ResumeError
from fl_app.runs.tracking import Tracking
from fl_app.secure_aggregation.settings import is_on as is_secure
from fl_app.server.coded import Coded
from fl_app.server.round import RoundFailedError
from fl_app.server.secure import SecureCoded
from fl_app.server.start import set_up
from fl_app.session import Session
from fl_app.tree import Tree, digest
from fl_app.wire.records import to_record, to_tree

logger = logging.getLogger("thinwire")

app = ServerApp()

SAID_IN_FULL = WithoutTraceback(RoundFailedError, ResumeError, OSError)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that ``overrides`` names.

    Raises
    ------
    Exception
        Whatever ended the run early, after the results so far and a summary that says "failed"
        are on disk; Flower then reports the run as failed.
    """
    keep_private()
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)  # the table below says the same, shorter
    flower.addFilter(SAID_IN_FULL)
    began = time.perf_counter()
    overrides = str(context.run_config["overrides"])
    here = session(overrides)
    check_strategy(here.cfg)
    experiment = Experiment(here, grid, overrides, setup_seconds=time.perf_counter() - began)
    # Flower ends a stopped run's process from another thread.
    add_exit_handler(lambda: experiment.finish("interrupted"), run_before_force_exit=True)
    experiment.start()


class Experiment:
    """One experiment: evaluation, checkpoint and a line on the console after every round."""

    def __init__(self, here: Session, grid: Grid, overrides: str, setup_seconds: float) -> None:
        self.here = here
        self.grid = grid
        self.overrides = overrides
        self.setup_seconds = setup_seconds
        self.folder = RunFolder(here.cfg, overrides)
        self.tracking = Tracking(self.folder)
        kind = SecureCoded if is_secure(here.cfg) else Coded
        self.strategy = kind(inner_strategy(here.cfg), here, self.folder.ledger)
        self.strategy.turns = self.folder.turns
        self.rounds_done = 0
        self.flower_runs = [grid.run.run_id]  # more than one, if it was resumed
        self.ended = False
        self.recording = threading.RLock()

    def start(self) -> None:
        """Run all rounds, then write summary, adapter and report."""
        here, cfg = self.here, self.here.cfg
        console.header(cfg, self.folder.path, here.theta0)
        try:
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
            if "unseen" in here.data:
                self.evaluate("unseen", self.rounds_done, self.latest)
                self._tell("unseen")
            here.adapter.set(here.model, self.latest)
            here.adapter.export(here.model, self.folder.path / "adapter")
            if (spent := self._privacy_spent()) is not None:
                model_card.write(self.folder.path / "adapter", cfg.experiment, spent)
        except BaseException:
            with suppress(OSError):  # a full disk, say, is what ended the run
                self.finish("failed")
            raise
        self.finish("completed")
        forget_runs(default_state_dir(cfg.output.dir), self.flower_runs)

    def _begin(self) -> ArrayRecord:
        """Return the model to start from, after set-up, or after what the run has done before."""
        if self.folder.checkpoint is None:
            self._check_privacy()
            set_up(self.strategy, self.grid)
            self.latest = self.here.theta0
            return to_record(self.latest)
        kept, state = self.folder.checkpoint
        if {*kept} != {*self.here.theta0}:
            raise ResumeError(
                f"resume={self.here.cfg.resume}: the checkpoint holds other tensors than the "
                "model: it is damaged or of another version; start the run anew"
            )
        self.latest = {name: kept[name] for name in self.here.theta0}  # a file has its own order
        arrays = to_record(self.latest)
        try:
            self.strategy.restore(state["strategy"], arrays)
            self.rounds_done = self.strategy.rounds_done
            self.setup_seconds += state["setup_seconds"]
            self.strategy.clients.continues = [run_folder(one) for one in state["flower_runs"]]
            self.flower_runs = [*state["flower_runs"], *self.flower_runs]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ResumeError(
                f"resume={self.here.cfg.resume}: the checkpoint is not one of this strategy "
                f"({type(error).__name__}: {error}): it is damaged or of another version; start "
                "the run anew"
            ) from None
        self._check_privacy()
        self._keep(arrays)  # what nodes keep from now on is under the new id
        return arrays

    def _keep(self, arrays: ArrayRecord) -> None:
        state = {
            "strategy": self.strategy.state(arrays),
            "setup_seconds": self.setup_seconds,
            "flower_runs": self.flower_runs,
        }
        self.folder.keep(self.rounds_done, self.latest, state)

    def after_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Score the global model, keep it, and say so.

        Raises
        ------
        InterruptedError
            If the run has ended: what comes later would not be in its summary.
        """
        with self.recording:
            if self.ended:
                raise InterruptedError("the run was stopped")
            self.latest = to_tree(arrays, like=self.here.theta0)
            self.rounds_done = server_round
            scores = self.evaluate("test", server_round, self.latest)
            self._keep(arrays)
            console.round_line(self.folder, server_round)
            self._tell("test")
            return MetricRecord(dict(scores))

    def evaluate(self, split: str, server_round: int, tree: Tree) -> dict[str, float]:
        """Score ``tree`` on a split of the server's data and add it to metrics.csv."""
        began = time.perf_counter()
        scores = self.here.evaluate(tree, self.here.data[split])
        self.folder.add_metrics(server_round, split, scores)
        self.folder.evaluate_seconds += time.perf_counter() - began
        return scores

    def finish(self, status: str) -> None:
        """Write summary.json and report.html and print the final table; the first call counts."""
        with self.recording:
            if not self.ended:
                self.ended = True
                self._finish(status)

    def _tell(self, split: str) -> None:
        """Let the loggers know how the last round ended."""
        with self.recording:
            seconds = {
                "total": time.perf_counter() - self.folder.started + self.setup_seconds,
                "train": self.strategy.uplink.train_seconds,
            }
            self.tracking.log(self.rounds_done, split, seconds)

    def _check_privacy(self) -> None:
        """Find every client's noise before a round, not in it, and that it is for all its turns.

        A client for whose rows there is none is left out: what it says ends nobody else's run. A
        round that was cut off is repeated if the budget is for it; else it stays without a
        result: its clients were asked, and have spent their turn.

        Raises
        ------
        ValueError
            If there is none for any client, or a client would take more turns than it is for.
        """
        cfg, turns = self.here.cfg, self.folder.turns
        if not is_example_level(cfg) or turns is None:
            return
        from fl_app.privacy.budget import check_turns, mechanism  # of an extra, not on every server

        self.strategy.clients.find(
            self.grid, self.strategy.rounds_done
        )  # they alone know how many rows they have
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
                "rounds %d to %d were cut off and are not repeated: their clients have spent the "
                "turns that their noise is for",
                self.rounds_done + 1, turns.last,
            )  # fmt: skip
            self.rounds_done = self.strategy.rounds_done = turns.last
            check_turns(cfg, turns.count() + self._planned())

    def _planned(self) -> Counter[int]:
        """Return how often each client is sampled in the rounds to come."""
        cfg, nodes = self.here.cfg, sorted(self.strategy.clients.nodes)
        if len(nodes) < cfg.clients_per_round:
            return Counter()  # the first round will say so
        rounds = range(self.rounds_done + 1, cfg.rounds + 1)
        return sampling.turns(cfg.strategy.sampler, nodes, cfg.clients_per_round, cfg.seed, rounds)

    def _privacy_spent(self) -> dict[str, Any] | None:
        turns = self.folder.turns
        if turns is None or not turns.asked:
            return None
        from fl_app.privacy.budget import spent

        said = self.strategy.uplink.spent
        return spent(self.here.cfg, self.strategy.clients.rows, turns.count(), said)

    def _finish(self, status: str) -> None:
        here = self.here
        summary = self.folder.finish(
            status,
            self.overrides,
            {
                "rounds": self.rounds_done,
                "trainable_scalars": sum(x.size for x in here.theta0.values()),
                "theta0_digest": digest(here.theta0),
                "seed_only_saving": self.strategy.seed_only_saving,
                "train_seconds": self.strategy.uplink.train_seconds,
                "setup_seconds": self.setup_seconds,
                "privacy": self._privacy_spent(),
            },
        )
        report.write(self.folder.path)
        self.tracking.finish(status, summary)
        console.final(summary, self.folder.path)
