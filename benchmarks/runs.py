"""Runs of a benchmark: made by `flwr run`, one after the other on one SuperLink, and read again."""

import csv
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_app.installed import project_root
from fl_app.run import submit, superlink


@dataclass(frozen=True)
class Run:
    """What a completed run left.

    Attributes
    ----------
    summary : dict
        Its summary.json.
    scores : dict
        Round -> the target's metric on the test split.
    ledger : list of dict
        The rows of set-up and training.
    """

    summary: dict[str, Any]
    scores: dict[int, float]
    ledger: list[dict[str, str]]

    def sent(self, until: int, column: str = "message_bytes") -> int:
        """Return a ledger column's sum over set-up and training, to round ``until``."""
        return sum(int(row[column]) for row in self.ledger if int(row["round"]) <= until)

    def first_met(self, target: float) -> int | None:
        """Return the first round whose score is at least ``target``."""
        return min((r for r, value in self.scores.items() if value >= target), default=None)


def folder_of(label: str, seed: int) -> Path:
    """Return where a run is kept."""
    return project_root() / "runs" / f"bench-{label}-s{seed}"


def completed(label: str, seed: int) -> bool:
    """Return whether the run is there and came to its end."""
    path = folder_of(label, seed) / "summary.json"
    return path.exists() and json.loads(path.read_text())["status"] == "completed"


def run_missing(overrides: dict[str, str], seeds: list[int]) -> None:
    """Run what has not completed yet, of every label with its overrides.

    Raises
    ------
    SystemExit
        If a run failed; what is done stays.
    """
    missing = [(label, seed) for seed in seeds for label in overrides if not completed(label, seed)]
    if not missing:
        return
    with superlink() as environment:
        for label, seed in missing:
            folder = folder_of(label, seed)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that did not complete
            asked = f"{overrides[label]} seed={seed} output.name={folder.name}"
            if submit(asked, environment) != 0:
                sys.exit(f"{folder.name} failed; call this again to run what is missing")


def read(label: str, seed: int) -> Run:
    """Return a completed run."""
    folder = folder_of(label, seed)
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "metrics.csv").open(newline="") as file:
        scores = {
            int(m["round"]): float(m["value"])
            for m in csv.DictReader(file)
            if (m["split"], m["metric"]) == ("test", summary["target"]["metric"])
        }
    with (folder / "ledger.csv").open(newline="") as file:
        ledger = [r for r in csv.DictReader(file) if r["kind"] != "evaluate"]
    return Run(summary, scores, ledger)


def spread(values: list[float], digits: int = 3) -> str:
    """Return the mean and, for several seeds, the standard deviation."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")
