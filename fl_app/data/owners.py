"""Whose rows they are: the values of a column that divides rows among clients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fl_app.data.kinds import TEXTS, kind_of, said
from fl_app.data.rows import numbers
from fl_app.faults import FaultError

if TYPE_CHECKING:
    from datasets import Dataset


def client_names(values: Iterable[object]) -> list[object]:
    """Return the values of a column, each once, in the order of the clients that they name.

    Integers come first, by size, then texts, by their characters' code points. So the order depends
    neither on the rows' order nor on the machine.
    """
    return sorted({*values}, key=lambda value: (isinstance(value, str), value))


def rows_by(dataset: Dataset, column: str) -> dict[object, list[int]]:
    """Return the row indices of every value of ``column``."""
    if column not in dataset.column_names:
        raise FaultError(
            "columns",
            f"no column {column!r}; there are {', '.join(dataset.column_names)}",
            missing=column,
        )
    values = dataset[column][:]
    check_owners(column, values)
    rows: dict[object, list[int]] = {}
    for index, value in enumerate(values):
        rows.setdefault(value, []).append(index)
    return rows


def check_owners(column: str, values: Sequence[object]) -> None:
    """Refuse values that cannot say whose rows they are: all should be texts or integers.

    Raises
    ------
    FaultError
        With the number of rows without a value, and which they are; or with the kind of value.
    """
    blank = [
        index
        for index, value in enumerate(values)
        if value is None or value != value or (isinstance(value, str) and not value.strip())
    ]
    if blank:
        spelled = sorted({repr(x) for x in values if isinstance(x, str) and not x.strip()})
        quoted = '"' if spelled else ""
        raise FaultError(
            "empty",
            f"data.partitioner.column={column}: {len(blank)} of {len(values)} rows of data.train "
            f"have no value there, so that nobody owns them: {numbers(blank)}. "
            "Give them one, or leave them out with "
            f"data.train.drop.{column}={quoted}[{','.join(['null', *spelled])}]{quoted}",
            column=column,
            rows=len(blank),
        )
    for kind in sorted({kind_of(value) for value in values} - {*TEXTS}):
        raise FaultError("kind", **said(f"data.partitioner.column={column}", column, kind))


def number_of(value: object) -> object:
    """Return the number that a text is, if it is written as Python writes it; else the value."""
    if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,17}", value):
        return int(value)
    return value
