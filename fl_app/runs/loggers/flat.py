"""Turn a nested mapping into one level of names, which is all that loggers can compare and plot."""

import json
from typing import Any

Scalar = str | bool | int | float


def flat(tree: dict[str, Any], separator: str, prefix: str = "") -> dict[str, Scalar]:
    """Return ``{"optimizer": {"lr": 0.1}}`` as ``{"optimizer.lr": 0.1}``.

    Lists become JSON; None gets no entry.
    """
    found: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, separator, f"{prefix}{key}{separator}")
        elif isinstance(value, list):
            found[prefix + key] = json.dumps(value)
        elif value is not None:
            found[prefix + key] = value
    return found
