"""The error of too few rows, or too few values of a column."""


def check_enough(available: int, num_partitions: int, what: str) -> None:
    """Refuse fewer than one of ``what`` per partition.

    Raises
    ------
    ValueError
        With both numbers.
    """
    if available < num_partitions:
        raise ValueError(
            f"{available} {what} cannot fill {num_partitions} partitions: lower federation.clients "
            "to that number, or give data.train more"
        )
