"""Drawn shares of the labels, by a Dirichlet distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import rows_by
from fl_app.data.partition.enough import check_enough

if TYPE_CHECKING:
    from datasets import Dataset

DRAWS = 100  # of divisions, until one leaves nobody with too few rows


def split(
    dataset: Dataset,
    num_partitions: int,
    rng: np.random.Generator,
    column: str,
    alpha: float,
    min_partition_size: int | None = None,
) -> list[list[int]]:
    """Return row indices per partition, with drawn shares of the labels in ``column``.

    A small ``alpha`` gives few labels per partition, a large one makes all partitions alike.

    Parameters
    ----------
    column : str
        The column that holds the labels.
    alpha : float
        Concentration, greater than 0.
    min_partition_size : int, optional
        Without it, sizes differ by at most one: see ``of_one_size``. With it, they are drawn too,
        and no partition has fewer rows: see ``of_drawn_sizes``.

    Raises
    ------
    ValueError
        If there are too few rows, or no draw gives every partition ``min_partition_size`` rows.
    """
    check_enough(len(dataset), num_partitions, "rows")
    groups = [rng.permutation(rows).tolist() for rows in rows_by(dataset, column).values()]
    if min_partition_size is None:
        return of_one_size(groups, num_partitions, rng, alpha)
    if min_partition_size * num_partitions <= len(dataset):
        for _ in range(DRAWS):
            parts = of_drawn_sizes(groups, num_partitions, rng, alpha)
            if min(map(len, parts)) >= min_partition_size:
                return parts
    raise ValueError(
        f"data.partitioner.min_partition_size={min_partition_size}: no draw of {DRAWS} divides "
        f"{len(dataset)} rows so that each of {num_partitions} clients has that many: lower it, or "
        f"federation.clients, or raise data.partitioner.alpha={alpha}"
    )


def of_one_size(
    groups: list[list[int]], num_partitions: int, rng: np.random.Generator, alpha: float
) -> list[list[int]]:
    """Return row indices per partition, of sizes that differ by at most one.

    Hsu et al. 2019, arXiv:1909.06335: partition k draws q_k ~ Dirichlet(alpha p), where p are the
    shares in the whole data set, and takes rows without replacement, with labels drawn by q_k.
    Reconstructed: when a label has no rows left, the other labels provide them, by q_k.

    Parameters
    ----------
    groups : list of list of int
        The row indices of each label, in random order; they are used up.
    """
    left = np.array([len(rows) for rows in groups])
    prior = left / left.sum()
    sizes = [len(part) for part in np.array_split(np.arange(left.sum()), num_partitions)]
    parts: list[list[int]] = []
    for size in sizes:
        shares = shares_by(rng, alpha * prior)
        part: list[int] = []
        while len(part) < size:
            weights = np.where(left > 0, shares, 0.0)
            if weights.sum() == 0.0:
                weights = left.astype(float)
            wanted = rng.multinomial(size - len(part), weights / weights.sum())
            for group, count in enumerate(np.minimum(wanted, left)):
                part += [groups[group].pop() for _ in range(count)]
                left[group] -= count
        parts.append(part)
    return parts


def of_drawn_sizes(
    groups: list[list[int]], num_partitions: int, rng: np.random.Generator, alpha: float
) -> list[list[int]]:
    """Return row indices per partition, of whatever sizes the draws give.

    Yurochkin et al. 2019, arXiv:1905.12022, as their code and Flower Datasets do it: each label
    draws shares ~ Dirichlet(alpha) over the partitions and is divided by them; a partition that has
    more than the mean number of rows already gets no more.

    Parameters
    ----------
    groups : list of list of int
        The row indices of each label, in random order.
    """
    mean = sum(map(len, groups)) / num_partitions
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    for rows in groups:
        taking = [part for part in parts if len(part) <= mean]
        shares = shares_by(rng, np.full(len(taking), alpha))
        ends = (np.cumsum(shares) * len(rows)).astype(int)
        for part, some in zip(taking, np.split(np.array(rows), ends[:-1]), strict=True):
            part += some.tolist()
    return parts


def shares_by(rng: np.random.Generator, alphas: np.ndarray) -> np.ndarray:
    """Return a draw; if all weights are too small for a float, one share is everything."""
    shares = rng.dirichlet(alphas)
    if np.isfinite(shares).all():
        return shares
    return np.eye(len(alphas))[rng.choice(len(alphas), p=alphas / alphas.sum())]
