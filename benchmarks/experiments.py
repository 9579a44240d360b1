"""``python -m benchmarks.experiments [--seeds 0 1 2] [EXPERIMENT ...]``: the README's table.

Runs every experiment with every seed through `flwr run`, one after the other on one SuperLink,
and prints final scores, bytes to the target and seconds as a Markdown table. The target is 95 % of
the mean final ANLS of fedavg_full. Runs that are already in ``runs/bench-*`` are not repeated.
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from fl_app.console import size
from fl_app.installed import project_root
from fl_app.run import submit, superlink

EXPERIMENTS = ("fedavg_full", "fedavg_lora", "fedavg_nf4", "nf4_single", "thin")
BASELINE = "fedavg_full"


def folder_of(label: str, seed: int) -> Path:
    """Return where a run of this benchmark is kept."""
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
            name = folder_of(label, seed).name
            asked = f"{overrides[label]} seed={seed} output.name={name}"
            if submit(asked, 10, environment) != 0:
                sys.exit(f"{name} failed; remove runs/{name} and call this again")


def read(label: str, seed: int) -> dict[str, Any]:
    """Return a run's summary, its scores by round, and the bytes sent until each round."""
    folder = folder_of(label, seed)
    with (folder / "metrics.csv").open(newline="") as file:
        metrics = [m for m in csv.DictReader(file) if m["split"] == "test"]
    with (folder / "ledger.csv").open(newline="") as file:
        ledger = [r for r in csv.DictReader(file) if r["kind"] != "evaluate"]
    anls = {int(m["round"]): float(m["value"]) for m in metrics if m["metric"] == "anls"}
    accuracy = {int(m["round"]): float(m["value"]) for m in metrics if m["metric"] == "accuracy"}
    sent = {
        number: sum(int(r["message_bytes"]) for r in ledger if int(r["round"]) <= number)
        for number in anls
    }
    summary = json.loads((folder / "summary.json").read_text())
    return {"anls": anls, "accuracy": accuracy, "sent": sent, "summary": summary}


def first_met(run: dict[str, Any], target: float) -> int | None:
    """Return the first round whose ANLS is at least ``target``."""
    return min((r for r, value in run["anls"].items() if value >= target), default=None)


def table(experiments: list[str], seeds: list[int]) -> str:
    """Return the Markdown table of the runs, and the mean ANLS and accuracy by round."""
    runs = {e: [read(e, s) for s in seeds] for e in experiments}
    baseline = [run["summary"]["final"]["anls"] for run in runs[BASELINE]]
    target = 0.95 * statistics.mean(baseline)
    rows = [
        "| experiment | ANLS | accuracy | unseen ANLS | message bytes, whole run | rounds to "
        f"{target:.3f} | message bytes to {target:.3f} | of {BASELINE} | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rounds = []
    needed: dict[str, float] = {}
    for experiment, found in runs.items():
        final = [run["summary"]["final"] for run in found]
        met = [first_met(run, target) for run in found]
        bytes_met = [run["sent"][r] for run, r in zip(found, met, strict=True) if r is not None]
        if len(bytes_met) == len(found):
            needed[experiment] = statistics.mean(bytes_met)
        whole = statistics.mean(max(run["sent"].values()) for run in found)
        seconds = statistics.mean(run["summary"]["seconds"]["total"] for run in found)
        share = f"1/{needed[BASELINE] / needed[experiment]:.0f}" if experiment in needed else "-"
        rows.append(
            f"| {experiment} | {spread([f['anls'] for f in final])} "
            f"| {spread([100 * f['accuracy'] for f in final], 1)} % "
            f"| {spread([run['summary']['final_unseen']['anls'] for run in found])} "
            f"| {size(whole)} | {', '.join('missed' if r is None else str(r) for r in met)} "
            f"| {size(needed[experiment]) if experiment in needed else 'missed'} | {share} "
            f"| {seconds:.0f} |"
        )
        for metric, factor in (("anls", 1), ("accuracy", 100)):
            values = [
                f"{factor * statistics.mean(run[metric][r] for run in found):.3f}"
                for r in found[0][metric]
            ]
            rounds.append(f"{experiment} {metric} by round: {' '.join(values)}")
        phases = found[0]["summary"]["seconds"]
        mean = {p: statistics.mean(run["summary"]["seconds"][p] for run in found) for p in phases}
        rounds.append(
            f"{experiment} seconds: " + ", ".join(f"{p} {value:.2f}" for p, value in mean.items())
        )
    return "\n".join([*rows, "", *rounds])


def spread(values: list[float], digits: int = 3) -> str:
    """Return the mean and, for several seeds, the standard deviation."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description="run the experiments and print their table")
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    experiments = list(dict.fromkeys([BASELINE, *arguments.experiments]))
    run_missing({e: f"experiment={e}" for e in experiments}, arguments.seeds)
    print(table(experiments, arguments.seeds))


if __name__ == "__main__":
    main()
