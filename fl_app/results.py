"""The folder of a run: what is written, when, and under which names."""

import csv
import json
import os
import platform
import time
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from fl_app import checkpoint, resume
from fl_app.atomic import atomic_file
from fl_app.config import read_yaml
from fl_app.conventions import COLUMNS
from fl_app.installed import project_root
from fl_app.ledger import Ledger
from fl_app.privacy import is_client_level, is_example_level
from fl_app.privacy.turns import Turns
from fl_app.tree import Tree

PACKAGES = (
    "thinwire", "flwr", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets",
    "hydra-core", "numpy", "numba", "opacus",
)  # fmt: skip
METRIC_COLUMNS = ("round", "split", "metric", "value")


class RunFolder:
    """``runs/NAME/`` with config.yaml, ledger.csv, metrics.csv, checkpoints/ and summary.json.

    Everything but the summary is on disk as soon as a round is over, so a run that dies keeps
    what it has earned. With ``cfg.resume`` it is the folder of such a run, as it was after its last
    whole round.

    Attributes
    ----------
    checkpoint : tuple of Tree and dict, or None
        The model to go on from, and the state of the server that was kept with it.
    resumed : list of int
        The last whole round at each time the run was resumed.
    turns : Turns or None
        turns.csv, where training is private.

    Raises
    ------
    FileExistsError
        If ``output.name`` is taken.
    ResumeError
        If the run cannot be resumed; nothing of it is changed then.
    """

    def __init__(self, cfg: DictConfig, overrides: str = "") -> None:
        self.cfg = cfg
        self.metrics: list[tuple[int, str, str, float]] = []
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
            (self.path / "summary.json").unlink(missing_ok=True)  # of how it ended before
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
        """Return the count of private turns; of a run that goes on, it has to be there."""
        if not (is_example_level(self.cfg) or is_client_level(self.cfg)):
            return None
        path = self.path / "turns.csv"
        if self.checkpoint and not path.exists():
            raise resume.ResumeError(
                f"{path} is missing: what privacy the run's clients have spent is not known, so it "
                "cannot go on; start a new run"
            )
        return Turns(path)

    def add_metrics(self, server_round: int, split: str, values: dict[str, float]) -> None:
        """Append one row per metric to metrics.csv."""
        rows = [(server_round, split, name, value) for name, value in values.items()]
        self.metrics += rows
        with (self.path / "metrics.csv").open("a", newline="") as file:
            _write_metrics(file, rows)

    def keep(self, server_round: int, tree: Tree, state: dict[str, Any]) -> None:
        """Write the checkpoint of a round: the model, and ``state`` of the server, to go on from.

        Raises
        ------
        OSError
            If the disk is full; the checkpoint before stays.
        """
        for name in ("ledger.csv", "metrics.csv"):  # they are part of it
            with (self.path / name).open("rb") as file:
                os.fsync(file.fileno())
        here = {
            "round": server_round,
            "seconds": time.perf_counter() - self.started,
            "evaluate_seconds": self.evaluate_seconds,
            "transfers": len(self.ledger.rows),
            "metrics": [list(row) for row in self.metrics],
            "resumed": self.resumed,
        }
        checkpoint.save(self.path / "checkpoints", server_round, tree, {"folder": here, **state})

    def finish(self, status: str, overrides: str, totals: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json and return it."""
        summary = summarize(self, status, overrides, totals)
        text = json.dumps(summary, indent=2) + "\n"
        atomic_file(self.path / "summary.json", text.encode())
        return summary


def _save_config(cfg: DictConfig, path: Path) -> None:
    """Write config.yaml; where the run is written stays as it was at its start."""
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
    raise FileExistsError(f"{parent} holds 1000 runs named {name}")


def summarize(
    run: RunFolder, status: str, overrides: str, totals: dict[str, Any]
) -> dict[str, Any]:
    """Return the contents of summary.json.

    ``totals`` are what only the server knows: ``rounds``, ``trainable_scalars``,
    ``theta0_digest``, ``seed_only_saving`` (bytes), ``train_seconds``, ``setup_seconds`` and
    ``privacy`` (see ``fl_app.privacy.budget.spent``; None without).
    """
    ledger, cfg = run.ledger, run.cfg

    def sum_of(column: str, **equal: Any) -> Any:
        return ledger.total(
            column, lambda row: all(getattr(row, key) == value for key, value in equal.items())
        )

    final: dict[str, dict[str, float]] = {}
    for _, split, metric, value in run.metrics:
        final.setdefault(split, {})[metric] = value
    scalars_up = sum_of("scalars", direction="up", kind="train")
    sent = traffic(ledger)
    return {
        "experiment": cfg.experiment,
        "overrides": overrides,
        "seed": cfg.seed,
        "status": status,
        "rounds": totals["rounds"],
        "resumed": run.resumed,
        "trainable_scalars": totals["trainable_scalars"],
        "final": final.get("test", {}),
        "final_unseen": final.get("unseen", {}),
        "target": target(run),
        "privacy": totals["privacy"],
        "bytes": {
            **sent,
            "message_down_seed_only": sent["message_down"] - totals["seed_only_saving"],
        },
        "log": {
            "convention": cfg.output.convention,
            "bytes": sum_of(COLUMNS[cfg.output.convention], kind="train")
            + sum_of(COLUMNS[cfg.output.convention], kind="setup"),
        },
        "bits_per_scalar_up": 8 * sent["payload_up"] / scalars_up if scalars_up else None,
        "seconds": {
            "total": round(time.perf_counter() - run.started + totals["setup_seconds"], 3),
            "setup": round(totals["setup_seconds"], 3),
            "train": round(totals["train_seconds"], 3),
            "encode": round(sum_of("encode_s"), 6),
            "decode": round(sum_of("decode_s"), 6),
            "evaluate": round(run.evaluate_seconds, 3),
        },
        "theta0_digest": totals["theta0_digest"],
        "versions": versions(),
    }


def traffic(ledger: Ledger) -> dict[str, int]:
    """Return the bytes until now: of training by direction, of set-up, of both, of evaluation."""

    def bytes_of(column: str, kind: str, direction: str | None = None) -> int:
        wanted = {direction} if direction else {"up", "down"}
        return int(ledger.total(column, lambda r: r.kind == kind and r.direction in wanted))

    return {
        "payload_up": bytes_of("payload_bytes", "train", "up"),
        "payload_down": bytes_of("payload_bytes", "train", "down"),
        "message_up": bytes_of("message_bytes", "train", "up"),
        "message_down": bytes_of("message_bytes", "train", "down"),
        "setup": bytes_of("message_bytes", "setup"),
        "total": ledger.sent(),
        "evaluate": bytes_of("message_bytes", "evaluate"),
    }


def target(run: RunFolder) -> dict[str, Any]:
    """Return when the target metric was first met, and the bytes sent until then, or nulls."""
    metric, value = run.cfg.target.metric, run.cfg.target.value
    met = [
        server_round
        for server_round, split, name, got in run.metrics
        if split == "test" and name == metric and value is not None and got >= value
    ]
    first = min(met, default=None)
    sent = None if first is None else run.ledger.sent(until=first)
    return {"metric": metric, "value": value, "round": first, "bytes": sent}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
