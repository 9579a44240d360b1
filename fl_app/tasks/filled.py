"""The check that rows have values: its error counts the rows that lack one, and quotes none."""

from collections.abc import Iterable

from datasets import Dataset

from fl_app.faults import FaultError


def check_filled(columns: Iterable[str], rows: Dataset) -> None:
    """Refuse rows without a value in one of ``columns``.

    Raises
    ------
    FaultError
        Names the first such column, and the number of rows.
    """
    for column in columns:
        values = rows.select_columns(column).with_format("arrow")[:]
        if nothing := values.column(column).null_count:
            raise FaultError("empty", column=column, rows=nothing)
