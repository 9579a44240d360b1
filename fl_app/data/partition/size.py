"""Drawn rows, of given sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.partition import sizes

if TYPE_CHECKING:
    from datasets import Dataset


def split(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, partition_sizes: list[int]
) -> list[list[int]]:
    """Return shuffled row indices per partition, ``partition_sizes[k]`` of them.

    Rows beyond the sum of the sizes are left out.
    """
    return sizes.drawn(len(dataset), partition_sizes, rng)
