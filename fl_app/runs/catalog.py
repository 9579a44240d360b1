"""Find runs by path or pattern, and show their results as one table with a row per run."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_app.runs.configurations import differing, flat, group, without_output
from fl_app.runs.place import relative, without_places
from fl_app.runs.read import Run, is_run, read

if TYPE_CHECKING:  # a run is found and checked without it
    import pandas as pd


def find_runs(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the run folders that paths and glob patterns name, each once.

    A run's folder contains config.yaml, ledger.csv and metrics.csv; any other folder stands for all
    runs below it.

    Parameters
    ----------
    patterns : str, Path, or iterable of these
        Paths and patterns such as ``"runs/bench-*"``.

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing, or no match is or contains a run.

    Examples
    --------
    >>> import fl_app
    >>> [folder.name for folder in fl_app.find_runs("runs/example*")]
    ['example']
    """
    given = [patterns] if isinstance(patterns, (str, Path)) else patterns
    names = [str(pattern) for pattern in given]
    found: dict[Path, None] = {}
    for pattern in names:
        # A folder's own name may have brackets in it.
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207
        if not matches:
            raise FileNotFoundError(
                f"nothing matches {pattern!r}: give run folders, a folder of them, or a "
                "pattern like 'runs/bench-*'"
            )
        for match in matches:
            found |= dict.fromkeys(runs_below(Path(match)))
    if not found:
        raise FileNotFoundError(
            f"no run in {', '.join(names)}: a run's folder contains config.yaml, ledger.csv and "
            "metrics.csv"
        )
    return list(found)


def runs_below(folder: Path) -> list[Path]:
    """Return ``folder`` if it is a run's, else all run folders below it, sorted."""
    if is_run(folder):
        return [folder]
    runs = []
    for parent, names, _ in os.walk(folder):
        names.sort()
        for name in [name for name in names if is_run(Path(parent, name))]:
            names.remove(name)  # a run contains no other run
            runs.append(Path(parent, name))
    return sorted(runs)


def runs_table(runs: Run | Path | str | Iterable[Run | Path | str]) -> pd.DataFrame:
    """Return a table of runs: configuration, results and costs, a row per run.

    Scores are shares, sizes are in bytes, times in seconds. ``label`` names the configuration,
    which runs with different seeds share. The last columns are the options in which the runs
    differ, by their dotted names; a cell is empty if a run did not have that option.

    Parameters
    ----------
    runs : Run, path, or iterable of these
        Runs, or their folders as `find_runs` returns them.

    Raises
    ------
    FileNotFoundError
        If a folder is not that of a run.
    ValueError
        If a run cannot be read.

    Examples
    --------
    >>> import fl_app
    >>> table = fl_app.runs_table(fl_app.find_runs("runs"))
    >>> table[["experiment", "status"]].iloc[0].tolist()
    ['nf4_single', 'completed']
    """
    return to_frame(read_all([runs] if isinstance(runs, (Run, str, Path)) else runs))


def read_all(runs: Iterable[Run | Path | str]) -> list[Run]:
    """Return runs, of which those given by their folders are read."""
    return [one if isinstance(one, Run) else read(Path(one)) for one in runs]


def to_frame(runs: Sequence[Run], base: Path | None = None) -> pd.DataFrame:
    """Return ``runs_table`` of runs that have been read.

    Parameters
    ----------
    runs : sequence of Run
        The runs.
    base : Path or None
        The folder of the file that the table is written to: runs are named by their paths from
        there, and of files elsewhere only the last names are kept. None: paths as they are.
    """
    import pandas as pd

    labels = {run.path: found.label for found in group(runs) for run in found.runs}
    keys = differing(runs)
    rows = []
    for run in runs:
        options = flat(run.config)
        row = _row(run, labels[run.path]) | {key: options.get(key) for key in keys}
        rows.append(row if base is None else _from(base, run, row))
    return pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))


def _from(base: Path, run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that names no place of this machine."""
    plain = {k: without_places(v) if isinstance(v, str) else v for k, v in row.items()}
    return plain | {"run": relative(run.path, base), "overrides": without_output(run.overrides)}


def _row(run: Run, label: str) -> dict[str, Any]:
    goal = run.option("target.value")
    met = None if goal is None else run.first_met(goal)
    scores = {
        f"{split}_{metric}": value
        for split in ("validation", "test", "unseen")
        for metric, value in run.final(split).items()
    }
    return {
        "run": str(run.path),
        "label": label,
        "experiment": run.experiment,
        "seed": run.seed,
        "status": run.status,
        "overrides": run.overrides,
        "data": run.dataset,
        "rounds_done": max((r for r, *_ in run.metrics), default=0),
        **scores,
        "selected_on": run.selected_on,
        "best_round": run.best_round,
        "target_metric": run.target_metric,
        "target_value": goal,
        "rounds_to_target": met,
        "bytes_to_target": None if met is None else run.ledger.sent(until=met),
        "bytes_setup": run.bytes_of("message_bytes", "setup"),
        "bytes_up": run.bytes_of("message_bytes", "train", "up"),
        "bytes_down": run.bytes_of("message_bytes", "train", "down"),
        "bytes_total": run.ledger.sent(),
        "payload_up": run.bytes_of("payload_bytes", "train", "up"),
        "payload_down": run.bytes_of("payload_bytes", "train", "down"),
        "bits_per_scalar_up": run.bits_per_scalar_up(),
        **{
            f"turns_{name}": sum(len(getattr(turns, name)) for turns in run.turns)
            for name in ("asked", "lost", "late", "clipped")
        },
        "lost": "; ".join(run.losses) or None,
        "absent": " ".join(map(run.called, run.absent)) or None,
        "seconds": run.summary.get("seconds", {}).get("total"),
        "trainable_scalars": run.summary.get("trainable_scalars"),
        "epsilon": (run.summary.get("privacy") or {}).get("epsilon"),
    }
