"""A column says the client's number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_app.data.owners import number_of, rows_by

if TYPE_CHECKING:
    from datasets import Dataset


def split(
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
