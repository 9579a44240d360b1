"""Write tables as CSV for spreadsheets, so that a run's name cannot act as a formula there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Characters that start a formula, at the start of a cell, or of what a spreadsheet would read as a
# cell if its separator is not the comma.
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@＝＋－＠])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value)
