"""Partitioners: which rows of a data set each client holds.

A partitioner takes the data set, the number of partitions, a generator and arguments of its own,
and returns the row indices of each partition. The partitions are disjoint and cover the data set.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from fl_app.data.owners import client_names, number_of, rows_by, some
from fl_app.faults import FaultError
from fl_app.faults.suggestions import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

Partitioner = Callable[..., list[list[int]]]


def client_split(
    dataset: Dataset, cfg_partitioner: DictConfig, partition: int, num_partitions: int, seed: int
) -> Dataset:
    """Return the rows of one of ``num_partitions`` clients, in the data set's order.

    The parts are disjoint, cover the data set and depend only on the arguments.

    Parameters
    ----------
    dataset : Dataset
        All rows.
    cfg_partitioner : DictConfig
        ``id`` and the arguments of that partitioner.
    partition : int
        The client, in ``0..num_partitions-1``.
    num_partitions : int
        The number of clients.
    seed : int
        Seed of the partitioner's draws.

    Raises
    ------
    ValueError
        See ``partitioner``; or if ``partition`` is out of range, or the data set has fewer rows,
        or fewer values of a column, than partitions.
    """
    split, arguments = partitioner(cfg_partitioner)
    if not 0 <= partition < num_partitions:
        raise ValueError(f"partition {partition} is not in 0..{num_partitions - 1}")
    parts = split(dataset, num_partitions, np.random.default_rng(seed), **arguments)
    return dataset.select(sorted(parts[partition]))


def partitioner(cfg_partitioner: DictConfig) -> tuple[Partitioner, dict[str, Any]]:
    """Return the function that ``id`` names, and its arguments: the other keys.

    Raises
    ------
    ValueError
        If the id is unknown (the message lists the known ones), an argument is missing or unknown,
        or ``alpha`` is not a positive number.
    """
    given = {str(key): value for key, value in cfg_partitioner.items()}
    name = given.pop("id", None)
    if name not in PARTITIONERS:
        known = sorted(PARTITIONERS)
        raise ValueError(
            f"data.partitioner.id={name} should be one of {known}.{did_you_mean(name, known)}"
        )
    takes = list(inspect.signature(PARTITIONERS[name]).parameters)[3:]
    for key in sorted({*given} ^ {*takes}):
        if key in given:
            raise ValueError(
                f"data.partitioner.id={name} takes no {key}: remove it with "
                f"~data.partitioner.{key}.{did_you_mean(key, takes)}"
            )
        raise ValueError(f"data.partitioner.id={name} needs data.partitioner.{key}")
    alpha = given.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"data.partitioner.alpha={alpha!r} should be greater than 0 and finite")
    return PARTITIONERS[name], given


def by_column(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Return row indices per partition; all rows with one value of ``column`` stay together.

    Values are put in random order, then assigned by descending number of rows, each to the
    partition with the fewest rows so far. Sizes differ by at most the rows of the largest value.
    """
    rows = rows_by(dataset, column)
    _check_enough(len(rows), num_partitions, f"values of {column}")
    groups = list(rows.values())
    order = sorted(rng.permutation(len(groups)), key=lambda group: -len(groups[group]))
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    for group in order:
        min(parts, key=len).extend(groups[group])
    return parts


def client_column(
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


def natural(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Return row indices per partition; partition k holds exactly the rows whose ``column`` is k.

    Nothing is drawn: the data set says which client a row belongs to. The text "7" is the number 7.

    Raises
    ------
    ValueError
        If the values of ``column`` are not exactly 0..num_partitions-1.
    """
    rows: dict[object, list[int]] = {}
    for value, held in rows_by(dataset, column).items():
        number = number_of(value)
        if number in rows:
            raise ValueError(f"the column {column!r} holds both {number} and '{number}'")
        rows[number] = held
    wrong = sorted(map(repr, {*rows} ^ {*range(num_partitions)}))
    if wrong:
        raise ValueError(
            f"the values of {column} should be 0..{num_partitions - 1}, one per client, and "
            f"differ in {', '.join(wrong[:3])}: set federation.clients to the data set's number"
        )
    return [rows[partition] for partition in range(num_partitions)]


def named_clients(dataset: Dataset, cfg_partitioner: DictConfig) -> list[tuple[object, int]]:
    """Return each client's name and number of rows, in order, where a column names the clients.

    It is empty for all partitioners but `client_column`.

    Raises
    ------
    ValueError
        See `client_split`.
    """
    split, arguments = partitioner(cfg_partitioner)
    if split is not client_column:
        return []
    rows = rows_by(dataset, arguments["column"])
    return [(name, len(rows[name])) for name in client_names(rows)]


def iid(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Return shuffled row indices per partition; sizes differ by at most one."""
    _check_enough(len(dataset), num_partitions, "rows")
    shuffled = rng.permutation(len(dataset))
    return [part.tolist() for part in np.array_split(shuffled, num_partitions)]


def contiguous(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Return row indices per partition, in the data set's order; sizes differ by at most one.

    Nothing is drawn. The experiments of Fed-SB divide their data like this.
    """
    _check_enough(len(dataset), num_partitions, "rows")
    return [part.tolist() for part in np.array_split(np.arange(len(dataset)), num_partitions)]


def dirichlet(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str, alpha: float
) -> list[list[int]]:
    """Return row indices per partition, with drawn shares of the labels in ``column``.

    Hsu et al. 2019, arXiv:1909.06335: partition k draws q_k ~ Dirichlet(alpha p), where p are the
    shares in the whole data set, and takes rows without replacement, with labels drawn by q_k.
    Sizes differ by at most one. A small ``alpha`` gives few labels per partition, a large one
    makes all partitions alike. Reconstructed: when a label has no rows left, the other labels
    provide them, by q_k.

    Parameters
    ----------
    column : str
        The column that holds the labels.
    alpha : float
        Concentration, greater than 0.
    """
    _check_enough(len(dataset), num_partitions, "rows")
    groups = [rng.permutation(rows).tolist() for rows in rows_by(dataset, column).values()]
    left = np.array([len(rows) for rows in groups])
    prior = left / left.sum()
    sizes = [len(part) for part in np.array_split(np.arange(len(dataset)), num_partitions)]
    parts: list[list[int]] = []
    for size in sizes:
        shares = _dirichlet(rng, alpha * prior)
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


def _dirichlet(rng: np.random.Generator, alphas: np.ndarray) -> np.ndarray:
    """Return a draw; if all weights are too small for a float, one label gets everything."""
    shares = rng.dirichlet(alphas)
    if np.isfinite(shares).all():
        return shares
    return np.eye(len(alphas))[rng.choice(len(alphas), p=alphas / alphas.sum())]


def _check_enough(available: int, num_partitions: int, what: str) -> None:
    if available < num_partitions:
        raise ValueError(
            f"{available} {what} cannot fill {num_partitions} partitions: lower federation.clients "
            "to that number, or give data.train more"
        )


PARTITIONERS: dict[str, Partitioner] = {
    "by_column": by_column,
    "client_column": client_column,
    "contiguous": contiguous,
    "dirichlet": dirichlet,
    "iid": iid,
    "natural": natural,
}
