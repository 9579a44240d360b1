"""Answers of a trained model to the rows of a table, written as JSON Lines or CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset
from omegaconf import DictConfig

from fl_app.config import plain
from fl_app.data import table, texts
from fl_app.faults import FaultError
from fl_app.faults.suggestions import did_you_mean
from fl_app.runs.trained import Trained

PREDICTION, PROBABILITIES = "prediction", "probabilities"
AT_ONCE = 256  # rows between two writes
SUFFIXES = (".csv", ".jsonl")


def rows(path: Path, cfg: DictConfig, trained: Trained) -> Dataset:
    """Return the rows of a table, with the columns that the task knows them by.

    Parameters
    ----------
    path : Path
        A file of CSV, JSON Lines or Parquet, or a folder of such files with one split.
    cfg : DictConfig
        See ``fl_app.runs.settings``: columns are renamed as those of the test rows were.

    Raises
    ------
    FileNotFoundError, ValueError
        If it cannot be read, or lacks a column that the model needs.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    rules = texts.Rules.of(cfg.data)
    found = table.source("FILE", str(path.absolute()), sample_by=rules.sample_by)
    if len(found) != 1:
        raise ValueError(f"{path} has the splits {', '.join(found)}: name the file of one")
    read = table.with_class_names(next(iter(found.values())))
    if not len(read):
        raise ValueError(f"{path} has no rows")
    names = plain(cfg.data.columns)
    renamed = {old: new for old, new in names.items() if old in read.column_names}
    read = read.rename_columns({o: n for o, n in renamed.items() if n not in read.column_names})
    wanted = asked(trained.task)
    missing = [name for name in wanted if name not in read.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the column {missing[0]!r} that the model reads; it has "
            f"{', '.join(read.column_names)}.{did_you_mean(missing[0], read.column_names)}"
        )
    for name in (PREDICTION, PROBABILITIES):
        if name in read.column_names:
            raise ValueError(f"{path} has a column {name!r} already: rename or remove it")
    return rules.applied(read)


def asked(task: Any) -> Sequence[str]:
    """Return the columns that a prediction needs; a reference or label is not among them."""
    found: Sequence[str] = getattr(task, "asked", task.columns)
    return found


def predicted(trained: Trained, found: Dataset) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Yield each row with its answers beside it, and the answers, in order.

    A row that asks several questions has a list of answers.
    """
    task: Any = trained.task
    model = trained.model
    has_labels, has_shares = hasattr(task, "logits"), hasattr(task, "probabilities")
    for first in range(0, len(found), AT_ONCE):
        some = found.select(range(first, min(first + AT_ONCE, len(found))))
        if has_labels:
            logits = task.logits(model, some)
            answers = iter(task.answers(logits))
            likely = iter(task.probabilities(logits)) if has_shares else iter(())
        else:
            answers, likely = iter(task.predict(model, some)), iter(())
        for row in some:
            is_one = "questions" not in row
            own = [next(answers) for _ in range(1 if is_one else task.examples([row]))]
            said = {**row, PREDICTION: own[0] if is_one else own}
            if has_shares:
                said[PROBABILITIES] = next(likely)
            yield said, own


@contextmanager
def writing(out: Path | None) -> Iterator[Any]:
    """Yield a function that writes a row to a new file, or to the standard output.

    The file is there when the block has ended without an error.

    Raises
    ------
    FileExistsError, ValueError
        If there is such a file, or its name ends in another way than ``SUFFIXES``.
    """
    if out is None:
        yield lambda row: print(_line(row), file=sys.stdout)
        return
    check_out(out)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield _csv(file) if out.suffix == ".csv" else lambda row: file.write(f"{_line(row)}\n")
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


def check_out(out: Path | None) -> None:
    """Check that a file can be made; see `writing`."""
    if out is None:
        return
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out} should end in {' or '.join(SUFFIXES)}")
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out, or remove it")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --out {out} does not exist")


def score(trained: Trained, found: Dataset, answers: Sequence[Any]) -> dict[str, float]:
    """Return the task's scores, if the table has what they need; else nothing."""
    if not {*trained.task.columns} <= {*found.column_names}:
        return {}
    try:
        trained.task.check(found)
        return trained.task.score(answers, found)
    except FaultError:
        return {}


def _line(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)


def _csv(file: TextIO) -> Any:
    """Return a function that writes rows; values that are no texts or numbers are JSON."""
    writer = csv.writer(file, lineterminator="\n")
    header: list[str] = []

    def write(row: dict[str, Any]) -> None:
        cells = _flat(row)
        if not header:
            header.extend(cells)
            writer.writerow(header)
        writer.writerow([cells.get(name, "") for name in header])

    return write


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of a row; each label's probability has a column of its own."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name == PROBABILITIES:
            cells |= {f"probability of {label}": share for label, share in value.items()}
        else:
            cells[name] = _line(value) if isinstance(value, list | dict) else value
    return cells
