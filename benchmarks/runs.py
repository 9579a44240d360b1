"""Runs of a benchmark: made by `flwr run`, one after the other on one SuperLink, and read."""

import shutil
import statistics
import sys
from pathlib import Path

from fl_app.files import project_root
from fl_app.run import submit
from fl_app.runs import read as run_record
from fl_app.runs.read import Run
from fl_app.simulation.superlink import superlinks


def folder_of(label: str, seed: int) -> Path:
    """Return the folder of a run."""
    return project_root() / "runs" / f"bench-{label}-s{seed}"


def completed(label: str, seed: int) -> bool:
    """Return whether the run exists and has completed."""
    folder = folder_of(label, seed)
    return run_record.is_run(folder) and run_record.read(folder).status == "completed"


def run_missing(overrides: dict[str, str], seeds: list[int]) -> None:
    """Make the runs that have not completed yet, for every label and seed.

    Parameters
    ----------
    overrides : dict of str
        The overrides of each label.

    Raises
    ------
    SystemExit
        If a run failed; the runs before it stay.
    """
    missing = [(label, seed) for seed in seeds for label in overrides if not completed(label, seed)]
    if not missing:
        return
    with superlinks() as (environment,):
        for label, seed in missing:
            folder = folder_of(label, seed)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that did not complete
            asked = f"{overrides[label]} seed={seed} output.name={folder.name}"
            if submit(asked, environment) != 0:
                sys.exit(f"{folder.name} failed; call this again to run what is missing")


def read(label: str, seed: int) -> Run:
    """Return a completed run."""
    return run_record.read(folder_of(label, seed))


def mean_and_deviation(values: list[float], digits: int = 3) -> str:
    """Return the mean and, for several seeds, the standard deviation."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")
