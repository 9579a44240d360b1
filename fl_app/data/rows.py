"""Rows by their numbers: the first ones, and those that a message names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def first(rows: Dataset, most: int) -> Dataset:
    """Return the first rows, ``most`` of them if there are that many."""
    return rows.select(range(min(most, len(rows))))


def numbers(indices: Sequence[int]) -> str:
    """Return the numbers of rows as text: ``2, 7 (counted from 1)``."""
    return f"{some([index + 1 for index in indices])} (counted from 1)"


def some(found: Collection[object], most: int = 10) -> str:
    """Return the first values as text, and how many others there are."""
    rest = f", ... ({len(found) - most:,} more)" if len(found) > most else ""
    return ", ".join(map(str, islice(found, most))) + rest
