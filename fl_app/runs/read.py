"""Read a run from its folder, also if it failed, is still running, or is of an older version.

Results are computed from config.yaml, ledger.csv and metrics.csv, which exist since the first
round. summary.json, which is written at the end and lacks newer values in older runs, is used only
for what the others do not contain.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fl_app.config import read_yaml
from fl_app.faults.printable import printable
from fl_app.runs import clients, exported, selection
from fl_app.wire import ledger
from fl_app.wire.ledger import Transfers

FILES = ("config.yaml", "ledger.csv", "metrics.csv")
UNFINISHED = "unfinished"
# Largest files in bytes that are read, since a folder may come from anyone. The ledger of a
# thousand rounds with a thousand clients has 200 MB.
MOST = {"summary.json": 2**24, "metrics.csv": 2**26, "ledger.csv": 2**28}
UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, csv.Error)
ASKED = ("task.id", "task.label")  # of a row; a prompt is the model's


@dataclass(frozen=True)
class Run:
    """One stored run.

    Attributes
    ----------
    path : Path
        Its folder.
    config : dict
        The content of config.yaml, nested.
    summary : dict
        The content of summary.json; empty if the run has not ended.
    metrics : list of (round, split, metric, value)
        The rows of metrics.csv.
    ledger : Transfers
        The rows of ledger.csv.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[tuple[int, str, str, float]]
    ledger: Transfers

    def option(self, key: str) -> Any:
        """Return a configured value by its dotted name; None if this run had no such option."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def status(self) -> str:
        """Return "completed", "failed" or "interrupted"; "unfinished" without a summary."""
        return str(self.summary.get("status", UNFINISHED))

    @property
    def experiment(self) -> str:
        """Return the name of the experiment, or "custom"."""
        return str(self.config.get("experiment", "custom"))

    @property
    def overrides(self) -> str | None:
        """Return the overrides of the run; None if it has not ended."""
        return self.summary.get("overrides")

    @property
    def seed(self) -> int:
        """Return the seed of everything but the data."""
        return int(self.config.get("seed", 0))

    @property
    def target_metric(self) -> str | None:
        """Return the metric that the run is judged by."""
        metric = self.option("target.metric") or self.summary.get("target", {}).get("metric")
        return metric or next((name for _, _, name, _ in self.metrics), None)

    @property
    def dataset(self) -> str:
        """Return a short name of the data set: of the table that the test rows are of."""
        source = "test" if self.option("data.test.share") is None else "train"
        paths = [self.option(f"data.{source}.{key}") for key in ("path", "name")]
        return " ".join(str(part) for part in (*paths, self.option("data.id")) if part) or "unknown"

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Return metric, data set, test rows and what is asked of them.

        Scores are comparable only if these are equal.
        """
        data = self.config.get("data") or {}
        rows = [f"{key}={data[key]}" for key in data if key.startswith("test") or key == "seed"]
        asked = [f"{key}={value}" for key in ASKED if (value := self.option(key)) is not None]
        return (str(self.target_metric), self.dataset, *rows, *asked)

    @property
    def method(self) -> str:
        """Return strategy, adapter, and other choices than the usual: ``SingleClient lora``."""
        strategy = str(self.option("strategy.inner._target_") or "").rpartition(".")[2]
        optimizer, privacy = self.option("optimizer.id"), self.option("privacy.id")
        parts = [
            strategy,
            self.option("adapter.id"),
            None if optimizer == "adamw" else optimizer,
            None if privacy == "none" else privacy,
        ]
        return " ".join(str(part) for part in parts if part) or self.experiment

    @cached_property
    def curve(self) -> dict[int, float]:
        """Return the target's metric on the test split, by round."""
        return selection.scores(self.metrics, selection.TEST, self.target_metric)

    @property
    def selected_on(self) -> str:
        """Return the split that selects a round: see ``fl_app.runs.selection``."""
        return selection.selected_on(self.metrics, self.target_metric)

    @property
    def best_round(self) -> int | None:
        """Return the round with the best score on that split; None without a score."""
        return selection.best_round(self.metrics, self.target_metric)

    @property
    def last_is_worse(self) -> bool:
        """Tell whether the last round is clearly worse than the best one."""
        return selection.last_is_worse(self.metrics, self.target_metric)

    @property
    def best_adapter(self) -> Path | None:
        """Return the folder of the best round's model; None if the run has kept none."""
        return exported.best(self.path)

    def final(self, split: str) -> dict[str, float]:
        """Return the last value of every metric on a split."""
        return {name: value for _, s, name, value in self.metrics if s == split}

    def first_met(self, target: float | None) -> int | None:
        """Return the first round whose selecting score is as good as ``target``."""
        return selection.first_met(self.metrics, self.target_metric, target)

    def bytes_of(self, column: str, kind: str, direction: str | None = None) -> int:
        """Return the sum of a ledger's column; see ``Transfers.total_of``."""
        return self.ledger.total_of(column, kind, direction)

    @cached_property
    def turns(self) -> list[clients.Turns]:
        """Return who was asked in every round, and whose turn was lost, late or clipped."""
        return clients.by_round(self.ledger.rows)

    @property
    def lost_turns(self) -> int:
        """Return how many turns had no usable reply."""
        return sum(len(turns.lost) for turns in self.turns)

    @property
    def losses(self) -> list[str]:
        """Return a text for each client that lost turns: the rounds, and the first reason."""
        return clients.losses(((turns.round, turns.lost) for turns in self.turns), self.called)

    @property
    def mark(self) -> str:
        """Return what stands beside the name of a run that lost somebody: "3 turns lost"."""
        return clients.mark(self.lost_turns, len(self.absent))

    def called(self, client: object) -> str:
        """Return a client's name, where a column of the rows names it; else its number."""
        names = (self.summary.get("clients") or {}).get("names") or {}
        return printable(names.get(str(client), client), clients.LONGEST)

    @property
    def absent(self) -> dict[str, str]:
        """Return the clients that no round could ask, with the reason."""
        said = (self.summary.get("clients") or {}).get("absent") or {}
        return {printable(client): printable(why) for client, why in said.items()}

    def bits_per_scalar_up(self) -> float | None:
        """Return the payload bits per value that clients sent; None if they sent none."""
        scalars = self.bytes_of("scalars", "train", "up")
        return 8 * self.bytes_of("payload_bytes", "train", "up") / scalars if scalars else None


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Run:
    """Read the run in ``folder``.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a run.
    ValueError
        If one of its files cannot be read; the message names it.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {missing[0]}")
    return Run(
        folder,
        _loaded(folder / "config.yaml", read_yaml),
        _loaded(folder / "summary.json", _summary),
        _loaded(folder / "metrics.csv", _metrics),
        _loaded(folder / "ledger.csv", ledger.read),
    )


def _loaded(path: Path, load: Callable[[Path], Any]) -> Any:
    """Return what ``load`` reads from a file; errors name the file."""
    try:
        most = MOST.get(path.name)
        if most is not None and path.exists() and path.stat().st_size > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return load(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {printable(error)}") from None


def _summary(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError("it is not a mapping")
    for key in ("target", "privacy", "bytes", "seconds", "final", "clients"):
        if not isinstance(found.get(key), dict | None):
            raise ValueError(f"{key} is not a mapping")
    for key in ("absent", "names"):
        if not isinstance((found.get("clients") or {}).get(key), dict | None):
            raise ValueError(f"clients.{key} is not a mapping")
    for key in ("status", "overrides"):
        if not isinstance(found.get(key), str | None):
            raise ValueError(f"{key} is not a text")
    return found


def _metrics(path: Path) -> list[tuple[int, str, str, float]]:
    with path.open(newline="") as file:
        return [
            (ledger.number(row["round"]), row["split"], row["metric"], float(row["value"]))
            for row in csv.DictReader(file)
            if None not in row.values()  # an incomplete line, which is being written
        ]
