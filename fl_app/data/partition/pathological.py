"""A few labels for each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import client_names, rows_by

if TYPE_CHECKING:
    from datasets import Dataset

MODES = ("random", "deterministic", "first-deterministic")


def split(
    dataset: Dataset,
    num_partitions: int,
    rng: np.random.Generator,
    column: str,
    num_classes_per_partition: int,
    class_assignment_mode: str = "random",
) -> list[list[int]]:
    """Return row indices per partition, each with ``num_classes_per_partition`` labels.

    Li et al. 2022, arXiv:2102.02079, as in Flower Datasets: labels are assigned to partitions, then
    the rows of each label are divided evenly, in order, among the partitions that have it. Rows of
    a label that nobody has are left out.

    Parameters
    ----------
    column : str
        The column that holds the labels. They count in order: integers by size, then texts.
    num_classes_per_partition : int
        The number of labels of each partition.
    class_assignment_mode : {"random", "deterministic", "first-deterministic"}
        "deterministic": partition k has the labels k, k + 1, ..., modulo their number.
        "first-deterministic", as published: the label k, and drawn others. "random": all are drawn.

    Raises
    ------
    ValueError
        If there are fewer labels, or a label has fewer rows than partitions.
    """
    rows = rows_by(dataset, column)
    names = client_names(rows)
    if num_classes_per_partition > len(names):
        raise ValueError(
            f"data.partitioner.num_classes_per_partition={num_classes_per_partition} is more than "
            f"the {len(names)} values of {column}: lower it"
        )
    first = {"random": 0, "first-deterministic": 1}.get(
        class_assignment_mode, num_classes_per_partition
    )
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    owners: list[list[int]] = [[] for _ in names]
    for partition in range(num_partitions):
        fixed = [(partition + i) % len(names) for i in range(first)]
        free = [label for label in range(len(names)) if label not in fixed]
        drawn = rng.choice(free, size=num_classes_per_partition - first, replace=False)
        for label in [*fixed, *drawn]:
            owners[label].append(partition)
    for name, having in zip(names, owners, strict=True):
        if len(rows[name]) < len(having):
            raise ValueError(
                f"data.partitioner.id=pathological gives {len(having)} clients rows whose {column} "
                f"is {name}, and there are {len(rows[name])}: lower federation.clients or "
                "data.partitioner.num_classes_per_partition, or set "
                "data.partitioner.class_assignment_mode=deterministic"
            )
        for partition, some in zip(having, _divided(rows[name], len(having)), strict=True):
            parts[partition] += some
    return parts


def _divided(rows: list[int], count: int) -> list[list[int]]:
    return [part.tolist() for part in np.array_split(rows, count)] if count else []
