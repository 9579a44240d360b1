"""The check that rows have values which are texts: its errors count rows, and quote none."""

from collections.abc import Iterable

from datasets import Dataset

from fl_app.data.kinds import TEXTS, said
from fl_app.data.rows import numbers
from fl_app.data.texts import kinds, missing
from fl_app.faults import FaultError


def check_filled(columns: Iterable[str], rows: Dataset, nested: bool = False) -> None:
    """Refuse rows without a value in one of ``columns``, and columns that hold no texts.

    Parameters
    ----------
    columns : iterable of str
        The columns.
    rows : Dataset
        The rows.
    nested : bool
        Values may be of any kind.

    Raises
    ------
    FaultError
        Names the first such column, and the number of rows or the kind of its values.
    """
    for column in columns:
        if nothing := missing(rows, column):
            raise FaultError(
                "empty",
                f"{len(nothing)} of {len(rows)} rows have no value in the column {column!r}: "
                f"{numbers(nothing)}. Leave them out "
                f"with data.train.drop.{column}=[null] (data.test.drop, of the test rows), or say "
                f"with +data.empty.{column}=TEXT what stands there",
                column=column,
                rows=len(nothing),
            )
        if not nested:
            check_kind(column, rows)


def check_kind(column: str, rows: Dataset) -> None:
    """Refuse a column whose values are neither strings nor integers; missing ones do not count.

    Raises
    ------
    FaultError
        Names the kind of its values.
    """
    for kind in sorted(kinds(rows, column) - {*TEXTS}):
        raise FaultError("kind", **said("task", column, kind))
