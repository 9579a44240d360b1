"""Drawn shards of the rows in the order of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import client_names, rows_by
from fl_app.data.partition.enough import check_enough

if TYPE_CHECKING:
    from datasets import Dataset


def split(
    dataset: Dataset,
    num_partitions: int,
    rng: np.random.Generator,
    column: str,
    num_shards_per_partition: int | None = None,
    shard_size: int | None = None,
    keep_incomplete_shard: bool = False,
) -> list[list[int]]:
    """Return row indices per partition: shards, drawn, of the rows sorted by ``column``.

    McMahan et al. 2017, arXiv:1602.05629, with the options of Flower Datasets. A shard is
    ``shard_size`` rows in a row, so that it has few labels. Rows of shards that nobody gets are
    left out. One of the two numbers is given.

    Parameters
    ----------
    column : str
        The column that holds the labels: integers by size, then texts.
    num_shards_per_partition : int, optional
        Without it all shards are given away, and numbers of shards differ by at most one.
    shard_size : int, optional
        Without it, it is the largest with which there are enough shards.
    keep_incomplete_shard : bool
        Whether the rows behind the last whole shard are a shard too. It has no effect if both of
        the others are given.

    Raises
    ------
    ValueError
        If there are too few rows.
    """
    rows = rows_by(dataset, column)
    ordered = [row for name in client_names(rows) for row in rows[name]]
    is_whole = not keep_incomplete_shard or None not in (num_shards_per_partition, shard_size)
    asked = (num_shards_per_partition or 1) * num_partitions
    size = shard_size or max(1, len(ordered) // asked)
    shards = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    if is_whole and len(shards[-1]) < size:
        shards.pop()
    check_enough(len(shards), asked, f"shards of {size} rows")
    used = len(shards) if num_shards_per_partition is None else asked
    order = rng.permutation(len(shards))[:used]
    return [
        [row for shard in part for row in shards[shard]]
        for part in np.array_split(order, num_partitions)
    ]
