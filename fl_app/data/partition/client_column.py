"""Each value of a column is a client's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import client_names, rows_by
from fl_app.data.rows import some
from fl_app.faults import FaultError

if TYPE_CHECKING:
    from datasets import Dataset


def split(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Return row indices per partition; each value of ``column`` is a client's name.

    Nothing is drawn. Clients are numbered in the order of their names, see `client_names`.

    Raises
    ------
    ValueError
        If there are not exactly ``num_partitions`` names.
    """
    rows = rows_by(dataset, column)
    names = client_names(rows)
    if len(names) != num_partitions:
        raise FaultError(
            "clients",
            f"data.partitioner.column={column} names {len(names)} clients ({some(names)}), and "
            f"federation.clients={num_partitions}: set federation.clients={len(names)}",
            names=len(names),
            clients=num_partitions,
        )
    return [rows[name] for name in names]
