"""Tables as CSV that a spreadsheet may open: what runs are called cannot be a formula there."""

import re
from typing import Any

import pandas as pd

# What spreadsheets take a formula to begin with, at the start of a cell, and of what they would
# make one of where another sign parts cells than the comma.
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@＝＋－＠])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def to_csv(table: pd.DataFrame) -> str:
    """Return ``table`` as CSV, without its index.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, names of columns
    too. Numbers stay as they are, also those that are texts, such as ``-0.5``.
    """
    safe = table.map(plain)
    safe.columns = pd.Index([plain(name) for name in table.columns])
    return safe.to_csv(index=False, lineterminator="\n")


def plain(value: Any) -> Any:
    """Return a cell that no spreadsheet computes."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value)
