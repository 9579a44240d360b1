"""Drawn rows, of sizes in proportion to (k + 1)^2 for client k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.partition import sizes

if TYPE_CHECKING:
    from datasets import Dataset


def split(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Return shuffled row indices per partition; sizes are in proportion to (k + 1)^2.

    Sizes are rounded down, and the last partition has the rows that are left.
    """
    units = np.arange(1.0, num_partitions + 1) ** 2
    return sizes.drawn(len(dataset), sizes.by_units(len(dataset), units), rng)
