"""Runs of benchmarks: made by `flwr run`, one after the other on one SuperLink, and kept.

A run that has completed leaves its result in ``docs/results/`` (see ``fl_app.runs.result``), and
tables are made of the results alone. A run whose result is there is not made again, also when its
folder is gone: it is found by the digest of its configuration and its seed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl_app.config import compose
from fl_app.files import atomic_file, project_root
from fl_app.report.comparison import spread
from fl_app.run import submit
from fl_app.runs import read as run_record
from fl_app.runs import result, text
from fl_app.runs.configurations import digest
from fl_app.runs.read import Run
from fl_app.runs.result import Result
from fl_app.simulation.superlink import superlinks

RESULTS = project_root() / "docs" / "results"
RUNS = project_root() / "runs"

Asked = tuple[str, str, int]
"""A run: the label of its entry, the overrides without the seed, and the seed."""


def stored() -> dict[tuple[str, int], Result]:
    """Return all results, by digest and seed.

    Raises
    ------
    ResultError
        If a file is not a result, or was edited.
    ValueError
        If two files are results of the same run.
    """
    found: dict[tuple[str, int], Result] = {}
    for path in sorted(RESULTS.glob("*.json")):
        one = result.read(path)
        other = found.setdefault((one.digest, one.seed), one)
        if other is not one:
            raise ValueError(f"{path} and {other.path} are results of the same run: remove one")
    return found


def name_of(label: str, overrides: str, seed: int) -> str:
    """Return the name of a run's result, which no other configuration has."""
    return f"{label}-s{seed}-{digest(compose(overrides))[:8]}"


def missing(overrides: Mapping[str, str], seeds: Sequence[int]) -> list[Asked]:
    """Return the runs without a result, for every label and seed."""
    known, digests = stored(), _digests(overrides)
    return [
        (label, words, seed)
        for label, words in overrides.items()
        for seed in seeds
        if (digests[label], seed) not in known
    ]


def run_missing(overrides: Mapping[str, str], seeds: Sequence[int]) -> None:
    """Make the runs that have no result yet, for every label and seed.

    Parameters
    ----------
    overrides : mapping of str
        The overrides of each label.

    Raises
    ------
    SystemExit
        If a run failed; the results before it stay.
    """
    asked = [one for one in missing(overrides, seeds) if not _kept(*one)]
    if not asked:
        return
    with superlinks() as (environment,):
        for label, words, seed in asked:
            folder = _new_folder(name_of(label, words, seed))
            if submit(f"{words} seed={seed} output.name={folder.name}", environment) != 0:
                sys.exit(f"{folder} failed; call this again to run what is missing")
            keep(label, words, run_record.read(folder))


def keep(label: str, overrides: str, run: Run) -> Path:
    """Write the result of a completed run, and return its file."""
    path = RESULTS / f"{name_of(label, overrides, run.seed)}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    atomic_file(path, result.to_text(result.of_run(run)).encode())
    print(path, flush=True)
    return path


def read(overrides: Mapping[str, str], seeds: Sequence[int]) -> dict[str, list[Run]]:
    """Return the runs of every label, one for each seed, from their results.

    Raises
    ------
    KeyError
        If one has no result.
    """
    known, digests = stored(), _digests(overrides)
    return {label: [known[one, seed].run() for seed in seeds] for label, one in digests.items()}


def _digests(overrides: Mapping[str, str]) -> dict[str, str]:
    return {label: digest(compose(words)) for label, words in overrides.items()}


def _folders(name: str) -> list[Path]:
    return sorted(RUNS.glob(f"bench-{name}*"))


def _kept(label: str, overrides: str, seed: int) -> bool:
    """Write the result of a run that has completed without one: it was stopped in between."""
    for folder in _folders(name_of(label, overrides, seed)):
        if run_record.is_run(folder):
            run = run_record.read(folder)
            if run.status == "completed" and digest(run.config) == digest(compose(overrides)):
                keep(label, overrides, run)
                return True
    return False


def _new_folder(name: str) -> Path:
    """Return the folder of a new run; what an earlier attempt has left stays."""
    path, attempt = RUNS / f"bench-{name}", 1
    while path.exists():
        attempt += 1
        path = RUNS / f"bench-{name}-{attempt}"
    return path


def mean_and_deviation(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean and, for several seeds, the standard deviation."""
    return text.spread(spread(values), f"{{:.{digits}f}}".format)
