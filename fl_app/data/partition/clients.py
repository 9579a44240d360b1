"""The rows of the clients, by the partitioner that a configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from fl_app.data.owners import client_names, rows_by
from fl_app.data.partition.methods import partitioner

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of_clients(
    dataset: Dataset, cfg_partitioner: DictConfig, num_partitions: int, seed: int
) -> list[list[int]]:
    """Return the row indices of each of ``num_partitions`` clients, in the data set's order.

    They depend only on the arguments. No row is in two, and no client is without rows.

    Parameters
    ----------
    dataset : Dataset
        All rows.
    cfg_partitioner : DictConfig
        ``id`` and the arguments of that partitioner.
    num_partitions : int
        The number of clients.
    seed : int
        Seed of the partitioner's draws.

    Raises
    ------
    ValueError
        See ``partitioner``; or if the data set has too few rows, or too few values of a column.
    """
    split, arguments = partitioner(cfg_partitioner, num_partitions)
    parts = split(dataset, num_partitions, np.random.default_rng(seed), **arguments)
    return [sorted(part) for part in parts]


def client_split(
    dataset: Dataset, cfg_partitioner: DictConfig, partition: int, num_partitions: int, seed: int
) -> Dataset:
    """Return the rows of the client ``partition``, in ``0..num_partitions-1``.

    The other parameters are those of ``rows_of_clients``.

    Raises
    ------
    ValueError
        See ``rows_of_clients``; or if ``partition`` is out of range.
    """
    if not 0 <= partition < num_partitions:
        raise ValueError(f"partition {partition} is not in 0..{num_partitions - 1}")
    parts = rows_of_clients(dataset, cfg_partitioner, num_partitions, seed)
    return dataset.select(parts[partition])


def named_clients(dataset: Dataset, cfg_partitioner: DictConfig) -> list[tuple[object, int]]:
    """Return each client's name and number of rows, in order, where a column names the clients.

    It is empty for all partitioners but ``client_column``.

    Raises
    ------
    ValueError
        If the column is not there, or has values that name nobody.
    """
    if cfg_partitioner.id != "client_column":
        return []
    rows = rows_by(dataset, cfg_partitioner.column)
    return [(name, len(rows[name])) for name in client_names(rows)]
