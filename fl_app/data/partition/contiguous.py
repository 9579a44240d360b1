"""Rows in the data set's order, the same number for each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.partition.enough import check_enough

if TYPE_CHECKING:
    from datasets import Dataset


def split(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Return row indices per partition, in the data set's order; sizes differ by at most one.

    Nothing is drawn. The experiments of Fed-SB divide their data like this.
    """
    check_enough(len(dataset), num_partitions, "rows")
    return [part.tolist() for part in np.array_split(np.arange(len(dataset)), num_partitions)]
