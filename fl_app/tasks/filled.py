"""What rows have to hold: for errors that say how many do not, and never what they hold."""

from collections.abc import Iterable

from datasets import Dataset

from fl_app.faults import FaultError


def check_filled(columns: Iterable[str], rows: Dataset) -> None:
    """Refuse rows that have nothing in one of ``columns``.

    Raises
    ------
    FaultError
        Naming the first such column, and how many rows.
    """
    for column in columns:
        values = rows.select_columns(column).with_format("arrow")[:]
        if nothing := values.column(column).null_count:
            raise FaultError("empty", column=column, rows=nothing)
