"""The folder of a run while it runs: what is written, when, and under which names."""

import csv
import json
import os
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from fl_app.config import read_yaml
from fl_app.files import PROJECT, atomic_file, project_root
from fl_app.privacy import is_client_level, is_example_level
from fl_app.privacy.turns import Turns
from fl_app.runs import checkpoint, exported, resume
from fl_app.runs.summary import installed_version, summarize
from fl_app.tree import Tree
from fl_app.wire.ledger import Ledger

METRIC_COLUMNS = ("round", "split", "metric", "value")


class RunFolder:
    """``runs/NAME/`` with config.yaml, ledger.csv, metrics.csv, checkpoints/ and summary.json.

    Everything but the summary is on disk at the end of each round, so that a run that is killed
    keeps its results. With ``cfg.resume`` it is the folder of such a run, in its state after its
    last complete round.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of the run.
    overrides : str
        What the run was started with.

    Attributes
    ----------
    path : Path
        The folder.
    metrics : list of (round, split, metric, value)
        The rows of metrics.csv.
    names : dict of int to str
        Clients' names, where a column of the rows has them.
    ledger : Ledger
        The rows of ledger.csv.
    started : float
        ``time.perf_counter()`` at the start, as if the run had never been interrupted.
    evaluate_seconds : float
        Time spent on evaluation.
    checkpoint : tuple of Tree and dict, or None
        The model to resume from, and the state of the server that belongs to it.
    resumed : list of int
        The last complete round at each time the run was resumed.
    turns : Turns or None
        turns.csv, if training is private.

    Raises
    ------
    FileExistsError
        If ``output.name`` is taken.
    ResumeError
        If the run cannot be resumed; its files are unchanged then.
    """

    def __init__(self, cfg: DictConfig, overrides: str = "") -> None:
        self.cfg = cfg
        self.metrics: list[tuple[int, str, str, float]] = []
        self.names: dict[int, str] = {}
        self.evaluate_seconds = 0.0
        self.resumed: list[int] = []
        self.checkpoint: tuple[Tree, dict[str, Any]] | None = None
        seconds, transfers = 0.0, 0
        if cfg.resume is None:
            self.path = _new_folder(cfg)
            (self.path / resume.OVERRIDES).write_text(f"{overrides}\n")
        else:
            self.path = resume.folder(cfg)
        self._lock = resume.lock(self.path)
        if cfg.resume is not None:
            self.checkpoint = resume.last_round(cfg, self.path)
        self.turns = self._turns()
        if cfg.resume is not None:
            (self.path / "summary.json").unlink(missing_ok=True)  # of its previous end
        if self.checkpoint:
            kept = self.checkpoint[1]["folder"]
            seconds, transfers = kept["seconds"], kept["transfers"]
            self.evaluate_seconds = kept["evaluate_seconds"]
            self.resumed = [*kept["resumed"], kept["round"]]
            self.metrics = [tuple(row) for row in kept["metrics"]]
        self.started = time.perf_counter() - seconds
        self.ledger = Ledger(self.path / "ledger.csv", keep=transfers)
        _save_config(cfg, self.path)
        with (self.path / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerow(METRIC_COLUMNS)
            _write_metrics(file, self.metrics)

    def _turns(self) -> Turns | None:
        """Return the count of private turns; a resumed run needs the file of its first part."""
        if not (is_example_level(self.cfg) or is_client_level(self.cfg)):
            return None
        path = self.path / "turns.csv"
        if self.checkpoint and not path.exists():
            raise resume.ResumeError(
                f"{path} is missing: the privacy that the run's clients have spent is unknown, so "
                "the run cannot be resumed; start a new run"
            )
        return Turns(path)

    def add_metrics(self, server_round: int, split: str, values: dict[str, float]) -> None:
        """Append one row per metric to metrics.csv."""
        rows = [(server_round, split, name, value) for name, value in values.items()]
        self.metrics += rows
        with (self.path / "metrics.csv").open("a", newline="") as file:
            _write_metrics(file, rows)

    def keep(self, server_round: int, tree: Tree, state: dict[str, Any]) -> None:
        """Write the checkpoint of a round: the model ``tree``, and the server's ``state``.

        Raises
        ------
        OSError
            If the disk is full; the previous checkpoint stays.
        """
        for name in ("ledger.csv", "metrics.csv"):  # the checkpoint refers to their rows
            with (self.path / name).open("rb") as file:
                os.fsync(file.fileno())
        own = {
            "round": server_round,
            "seconds": time.perf_counter() - self.started,
            "evaluate_seconds": self.evaluate_seconds,
            "transfers": len(self.ledger.rows),
            "metrics": [list(row) for row in self.metrics],
            "resumed": self.resumed,
            "thinwire": installed_version(PROJECT),
        }
        checkpoint.save(self.path / "checkpoints", server_round, tree, {"folder": own, **state})

    def release(self) -> None:
        """Let another process resume the run; nothing is written into the folder after it."""
        self._lock.close()

    def finish(self, status: str, overrides: str, totals: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json and return its content.

        Parameters
        ----------
        status, overrides, totals
            See ``fl_app.runs.summary.summarize``.
        """
        summary = summarize(
            self.cfg,
            self.ledger,
            self.metrics,
            status=status,
            overrides=overrides,
            resumed=self.resumed,
            elapsed=time.perf_counter() - self.started,
            evaluate_seconds=self.evaluate_seconds,
            totals={**totals, "best_adapter": exported.best(self.path), "names": self.names},
        )
        text = json.dumps(summary, indent=2) + "\n"
        atomic_file(self.path / "summary.json", text.encode())
        return summary


def _save_config(cfg: DictConfig, path: Path) -> None:
    """Write config.yaml; a resumed run keeps the ``output`` options of its start."""
    kept = cfg.copy()
    OmegaConf.set_readonly(kept, False)
    kept.resume = None
    if (path / "config.yaml").exists():
        kept.output = read_yaml(path / "config.yaml").get("output", cfg.output)
    OmegaConf.save(kept, path / "config.partial")
    (path / "config.partial").rename(path / "config.yaml")


def _write_metrics(file: TextIO, rows: Iterable[tuple[int, str, str, float]]) -> None:
    csv.writer(file).writerows((*row[:3], f"{row[3]:.6f}") for row in rows)


def _new_folder(cfg: DictConfig) -> Path:
    chosen = cfg.output.name is not None
    name = (
        str(cfg.output.name)
        if chosen
        else f"{cfg.experiment}-s{cfg.seed}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    )
    parent = project_root() / cfg.output.dir
    for attempt in range(1000):
        path = parent / (f"{name}-{attempt + 1}" if attempt else name)
        try:
            path.mkdir(mode=0o700, parents=True)
            return path
        except FileExistsError:
            if chosen:
                raise FileExistsError(
                    f"{path} exists: choose another output.name, or remove the folder"
                ) from None
    raise FileExistsError(f"{parent} contains 1000 runs named {name}")
