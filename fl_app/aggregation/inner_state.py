"""What a Flower strategy remembers between rounds: moments, start, counters.

Strategies have no common way to tell, so their attributes are read: numbers, texts, arrays and
containers of them are state, and so are a wrapped strategy's; functions and what else there is come
from the configuration.
"""

import logging
from functools import cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

logger = logging.getLogger("thinwire")

SCALARS = (bool, int, float, str, bytes, np.ndarray, ArrayRecord, type(None))


def get(strategy: Strategy) -> dict[str, Any]:
    """Return the state of ``strategy`` by the names of its attributes."""
    state: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            state[name] = get(value)
        elif is_state(value):
            state[name] = value
        elif not callable(value):
            _warn(f"{type(strategy).__name__}.{name}", type(value).__name__)
    return state


def put(strategy: Strategy, state: dict[str, Any]) -> None:
    """Set the attributes of ``strategy`` as `get` returned them.

    Raises
    ------
    ValueError
        If a name is that of a method, or of what Python keeps itself.
    """
    for name, value in state.items():
        attribute = getattr(strategy, name, None)
        if name.startswith("__") or callable(attribute):
            raise ValueError(f"{name} is no state of a {type(strategy).__name__}")
        if isinstance(attribute, Strategy):
            put(attribute, value)
        else:
            setattr(strategy, name, value)


def is_state(value: Any) -> bool:
    """Return whether ``value`` is made of numbers, texts and arrays alone."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_state(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_state, value))
    return isinstance(value, (*SCALARS, np.generic))


@cache
def _warn(attribute: str, kind: str) -> None:
    """Say so once, not after every round."""
    logger.warning("%s (%s) is not kept: a resumed run starts with a new one", attribute, kind)
