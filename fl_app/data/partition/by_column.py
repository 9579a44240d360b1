"""Rows with the same value of a column stay together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import rows_by
from fl_app.data.partition.enough import check_enough

if TYPE_CHECKING:
    from datasets import Dataset


def split(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Return row indices per partition; all rows with one value of ``column`` stay together.

    Values are put in random order, then assigned by descending number of rows, each to the
    partition with the fewest rows so far. Sizes differ by at most the rows of the largest value.
    """
    rows = rows_by(dataset, column)
    check_enough(len(rows), num_partitions, f"values of {column}")
    groups = list(rows.values())
    order = sorted(rng.permutation(len(groups)), key=lambda group: -len(groups[group]))
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    for group in order:
        min(parts, key=len).extend(groups[group])
    return parts
