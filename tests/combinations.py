"""Parameters of a test, of which the suite runs some and ``make test-methods`` the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def combinations(values: Iterable[Any], *, suite: Collection[Any]) -> list[Any]:
    """Mark the combinations that only ``make test-methods`` runs.

    Parameters
    ----------
    values : iterable
        What the test is parametrized by: single values, or tuples of them.
    suite : collection
        Those of them that every run of the suite has: at least one of each mechanism.

    Raises
    ------
    ValueError
        If one of ``suite`` is not among the values.
    """
    values = list(values)
    if missing := [value for value in suite if value not in values]:
        raise ValueError(f"these are no combinations: {missing}")
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if value in suite else pytest.mark.methods,
        )
        for value in values
    ]
