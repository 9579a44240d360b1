"""Drawn rows by sizes, which several partitioners give."""

import numpy as np


def drawn(rows: int, sizes: list[int], rng: np.random.Generator) -> list[list[int]]:
    """Return row indices per partition: ``sizes[k]`` of the shuffled rows; the rest is left out.

    Raises
    ------
    ValueError
        If there are too few rows.
    """
    check_sum(sizes, rows)
    shuffled = rng.permutation(rows)[: sum(sizes)]
    return [part.tolist() for part in np.split(shuffled, np.cumsum(sizes)[:-1])]


def by_units(rows: int, units: np.ndarray) -> list[int]:
    """Return sizes in proportion to ``units``, rounded down; the last one has what is left.

    Raises
    ------
    ValueError
        If one would be 0.
    """
    sizes = (units / units.sum() * rows).astype(int)
    sizes[-1] += rows - sizes.sum()
    if sizes.min() < 1:
        raise ValueError(
            f"{rows} rows divided in proportion to {units[0]:g}, ..., {units[-1]:g} leave client "
            f"{int(sizes.argmin())} without one: lower federation.clients, or give data.train more"
        )
    return [int(size) for size in sizes]


def check_sum(sizes: list[int], rows: int) -> None:
    """Refuse sizes that are more than the rows.

    Raises
    ------
    ValueError
        With both numbers.
    """
    if sum(sizes) > rows:
        raise ValueError(
            f"data.partitioner.partition_sizes asks for {sum(sizes)} rows, and data.train has "
            f"{rows}: lower the sizes"
        )
