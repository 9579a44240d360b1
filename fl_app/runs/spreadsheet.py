"""Write tables as CSV for spreadsheets, so that a run's name cannot act as a formula there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl_app.faults.printable import no_formula

if TYPE_CHECKING:
    import pandas as pd


def to_csv(table: pd.DataFrame) -> str:
    """Return ``table`` as CSV, without its index.

    A text that a spreadsheet would read as a formula gets a leading apostrophe, also the name of a
    column. Numbers do not change, also if they are texts, such as ``-0.5``.
    """
    safe = table.map(plain)
    safe.columns = [plain(name) for name in table.columns]
    return safe.to_csv(index=False, lineterminator="\n")


def plain(value: Any) -> Any:
    """Return a cell that no spreadsheet evaluates."""
    return no_formula(value) if isinstance(value, str) else value
