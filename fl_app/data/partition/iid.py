"""Drawn rows, the same number for each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.partition.enough import check_enough

if TYPE_CHECKING:
    from datasets import Dataset


def split(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Return shuffled row indices per partition; sizes differ by at most one."""
    check_enough(len(dataset), num_partitions, "rows")
    shuffled = rng.permutation(len(dataset))
    return [part.tolist() for part in np.array_split(shuffled, num_partitions)]
