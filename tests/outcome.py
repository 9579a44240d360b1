"""The results of a run that a repetition must reproduce."""

import csv
import json
from pathlib import Path

from safetensors.numpy import load_file

from fl_app.runs import checkpoint
from fl_app.tree import digest


def result(folder: Path) -> dict[str, object]:
    """Return a run's results without durations and without set-up, which a new start repeats."""
    tree, _ = checkpoint.load(folder / "checkpoints")
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "ledger.csv").open(newline="") as file:
        rows = [
            {name: value for name, value in row.items() if not name.endswith("_s")}
            for row in csv.DictReader(file)
        ]
    adapters = sorted(folder.glob("adapter*/adapter_model.safetensors"))  # the best one's too
    return {
        "model": digest(tree),
        "adapters": {path.parent.name: digest(load_file(path)) for path in adapters},
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("round-*")),
        "ledger": [row for row in rows if row["kind"] != "setup"],
        "metrics": (folder / "metrics.csv").read_text(),
        "ended": [summary[name] for name in ("status", "rounds", "final", "final_unseen")],
    }


def setups(folder: Path) -> list[tuple[int, int, str]]:
    """Return the ledger's rows of asking nodes what they serve: (round, partition, direction)."""
    with (folder / "ledger.csv").open(newline="") as file:
        return [
            (int(row["round"]), int(row["partition"]), row["direction"])
            for row in csv.DictReader(file)
            if row["kind"] == "setup" and not int(row["scalars"])
        ]
