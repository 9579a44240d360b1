"""Which rows of a data set each client holds."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from omegaconf import DictConfig

Partitioner = Callable[..., list[list[int]]]


def client_split(
    dataset: Dataset, cfg_partitioner: DictConfig, partition: int, num_partitions: int, seed: int
) -> Dataset:
    """The rows of one of ``num_partitions`` clients, in the data set's order.

    The parts are disjoint, cover the data set and depend on the arguments alone.

    Args:
        cfg_partitioner: ``id`` and the arguments of that partitioner.

    Raises:
        ValueError: see ``partitioner``; a partition outside ``0..num_partitions-1``, or fewer
            things to hand out than partitions.
    """
    split, arguments = partitioner(cfg_partitioner)
    if not 0 <= partition < num_partitions:
        raise ValueError(f"partition {partition} is not in 0..{num_partitions - 1}")
    parts = split(dataset, num_partitions, np.random.default_rng(seed), **arguments)
    return dataset.select(sorted(parts[partition]))


def partitioner(cfg_partitioner: DictConfig) -> tuple[Partitioner, dict[str, Any]]:
    """The function that ``id`` names, and the arguments of the rest.

    Raises:
        ValueError: unknown id (the message lists the known ones), or not the arguments that it
            takes.
    """
    given = {str(key): value for key, value in cfg_partitioner.items()}
    name = given.pop("id", None)
    if name not in PARTITIONERS:
        known = sorted(PARTITIONERS)
        raise ValueError(f"data.partitioner.id={name} should be one of {known}")
    takes = list(inspect.signature(PARTITIONERS[name]).parameters)[3:]
    for key in sorted({*given} ^ {*takes}):
        if key in given:
            raise ValueError(
                f"data.partitioner.id={name} takes no {key}: remove it with ~data.partitioner.{key}"
            )
        raise ValueError(f"data.partitioner.id={name} needs data.partitioner.{key}")
    return PARTITIONERS[name], given


def by_column(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Row indices per partition; every value of ``column`` goes wholly to one partition.

    Values are drawn in random order, then handed out largest first, each to the partition with
    the fewest rows so far: sizes differ by at most the largest value's rows.
    """
    rows = _rows_by(dataset, column)
    _enough(len(rows), num_partitions, f"values of {column}")
    groups = list(rows.values())
    order = sorted(rng.permutation(len(groups)), key=lambda group: -len(groups[group]))
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    for group in order:
        min(parts, key=len).extend(groups[group])
    return parts


def natural(
    dataset: Dataset, num_partitions: int, rng: np.random.Generator, column: str
) -> list[list[int]]:
    """Row indices per partition; partition k holds exactly the rows whose ``column`` is k.

    Nothing is drawn: the data say which client they belong to.

    Raises:
        ValueError: the values of ``column`` are not exactly 0..num_partitions-1.
    """
    rows = _rows_by(dataset, column)
    wrong = sorted(map(repr, {*rows} ^ {*range(num_partitions)}))
    if wrong:
        raise ValueError(
            f"the values of {column} should be 0..{num_partitions - 1}, one per client, and "
            f"differ in {', '.join(wrong[:3])}: set federation.clients to the data's own number"
        )
    return [rows[partition] for partition in range(num_partitions)]


def iid(dataset: Dataset, num_partitions: int, rng: np.random.Generator) -> list[list[int]]:
    """Row indices per partition, shuffled; sizes differ by at most one."""
    _enough(len(dataset), num_partitions, "rows")
    shuffled = rng.permutation(len(dataset))
    return [part.tolist() for part in np.array_split(shuffled, num_partitions)]


def _rows_by(dataset: Dataset, column: str) -> dict[object, list[int]]:
    """Row indices of every value of ``column``."""
    if column not in dataset.column_names:
        raise ValueError(f"no column {column!r}; there are {', '.join(dataset.column_names)}")
    rows: dict[object, list[int]] = {}
    for index, value in enumerate(dataset[column][:]):
        rows.setdefault(value, []).append(index)
    return rows


def _enough(available: int, num_partitions: int, what: str) -> None:
    if available < num_partitions:
        raise ValueError(f"{available} {what} cannot fill {num_partitions} partitions")


PARTITIONERS: dict[str, Partitioner] = {
    "by_column": by_column,
    "iid": iid,
    "natural": natural,
}
