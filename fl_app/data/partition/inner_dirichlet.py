"""Drawn shares of the labels within each client, and given sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import rows_by
from fl_app.data.partition.dirichlet import shares_by
from fl_app.data.partition.sizes import check_sum

if TYPE_CHECKING:
    from datasets import Dataset


def split(
    dataset: Dataset,
    num_partitions: int,
    rng: np.random.Generator,
    column: str,
    partition_sizes: list[int],
    alpha: float,
) -> list[list[int]]:
    """Return row indices per partition; each draws its own shares of the labels in ``column``.

    Acar et al. 2021, arXiv:2111.04263 (FedDyn), as in Flower Datasets: partition k draws
    q_k ~ Dirichlet(alpha), the same for every label. Then row after row goes to one of the
    partitions that are not full, all alike, with a label drawn by q_k. A label without rows is left
    out of every q_k. Rows beyond the sum of the sizes are left out.

    Parameters
    ----------
    column : str
        The column that holds the labels.
    partition_sizes : list of int
        The number of rows of each partition.
    alpha : float
        Concentration, greater than 0.
    """
    check_sum(partition_sizes, len(dataset))
    groups = [rng.permutation(rows).tolist() for rows in rows_by(dataset, column).values()]
    left = np.array([len(rows) for rows in groups])
    shares = np.stack([shares_by(rng, np.full(len(groups), alpha)) for _ in range(num_partitions)])
    order = _order(partition_sizes, rng)
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    while len(order):
        # All labels at once; those after the first of a label that is used up are drawn again.
        labels = _labels(_weights(shares, left), order, rng)
        drawn = _before_one_runs_out(labels, left)
        for partition, label in zip(order[:drawn], labels[:drawn], strict=True):
            parts[partition].append(groups[label].pop())
        left = np.array([len(rows) for rows in groups])
        order = order[drawn:]
    return parts


def _order(sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Return whose turn each row is: at every step, one of those that are not full, all alike.

    Arrivals of Poisson processes of one rate have this law, since waiting times have no memory.
    """
    times = np.concatenate([np.cumsum(rng.exponential(size=size)) for size in sizes])
    return np.repeat(np.arange(len(sizes)), sizes)[np.argsort(times, kind="stable")]


def _weights(shares: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return the shares of labels that have rows; by the rows where a client has no such share."""
    weights = np.where(left > 0, shares, 0.0)
    weights[weights.sum(axis=1) == 0.0] = left
    return weights / weights.sum(axis=1, keepdims=True)


def _labels(weights: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a label for each turn, drawn by the weights of the partition whose turn it is."""
    labels = np.zeros(len(order), dtype=int)
    for partition, own in enumerate(weights):
        turns = np.flatnonzero(order == partition)
        labels[turns] = rng.choice(len(own), size=len(turns), p=own)
    return labels


def _before_one_runs_out(labels: np.ndarray, left: np.ndarray) -> int:
    """Return how many turns there are before one whose label has no row left."""
    over = [
        turns[rows] for label, rows in enumerate(left)
        if len(turns := np.flatnonzero(labels == label)) > rows
    ]  # fmt: skip
    return int(min(over, default=len(labels)))
