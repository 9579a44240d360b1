"""Flower's strategies inside ``Coded``: built from the config, shown nothing but partitions."""

import inspect
import math
import typing
from importlib import import_module
from typing import Any

from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_app.config import plain
from fl_app.config.data_only import check_strategy

# What a client can be weighted by; Coded adds the last. A score, or a loss, is no weight: it may be
# negative, and each client says its own.
WEIGHTS = ("num-examples", "one")
FORMS = "forms"
EVERYONE = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}


def inner_strategy(cfg: DictConfig) -> Strategy:
    """Build the strategy that ``strategy.inner`` names, to train whoever Coded has sampled.

    A wrapper, such as Flower's for privacy, has the strategy that it is around in ``strategy``. One
    that chooses among the forms of messages by their codecs has an argument ``forms``, and gets
    those of the configuration.

    Raises
    ------
    ValueError
        If the target is no Flower strategy, does not take the arguments given, or gets no number
        for an argument that is one.
    """
    arguments = plain(cfg.strategy.inner)
    check_strategy("strategy.inner", arguments)
    given = _of_everyone(arguments)
    if FORMS in inspect.signature(class_of(arguments)).parameters:
        given[FORMS] = plain(cfg.strategy.get(FORMS)) or {}
    try:
        inner = _build(given)
    except Exception as error:
        raise ValueError(f"strategy.inner={arguments['_target_']}: {error}") from None
    _check_arguments(inner, arguments)
    return inner


def _build(arguments: dict[str, Any]) -> Strategy:
    """Build the class that ``_target_`` names, which is a known one, and first what is in it."""
    arguments = dict(arguments)
    kind = class_of(arguments)
    del arguments["_target_"]
    if not issubclass(kind, Strategy):
        raise ValueError(f"{kind.__name__} is no Flower strategy")
    if isinstance(wrapped := arguments.get("strategy"), dict):
        arguments["strategy"] = _build(wrapped)
    return typing.cast(Strategy, kind(**arguments))


def class_of(arguments: dict[str, Any]) -> Any:
    """Return the class that ``_target_`` names, which has been checked as text."""
    module, _, name = arguments["_target_"].rpartition(".")
    return getattr(import_module(module), name)


def _of_everyone(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` with those that make the innermost strategy take all that it sees."""
    if isinstance(wrapped := arguments.get("strategy"), dict):
        return {**arguments, "strategy": _of_everyone(wrapped)}
    return {**arguments, **EVERYONE}


def _check_arguments(strategy: Strategy, arguments: dict[str, Any]) -> None:
    """Flower believes any value until it computes with it."""
    if isinstance(wrapped := arguments.get("strategy"), dict):
        _check_arguments(strategy.strategy, wrapped)  # type: ignore[attr-defined]
    kinds = typing.get_type_hints(type(strategy).__init__)
    for name, value in arguments.items():
        if kinds.get(name) in (int, float) and not _is_number(value, kinds[name]):
            raise ValueError(
                f"strategy.inner.{name}={value!r} should be a number, of type "
                f"{kinds[name].__name__}"
            )
    weight = arguments.get("weighted_by_key", WEIGHTS[0])
    if weight not in WEIGHTS:
        raise ValueError(f"strategy.inner.weighted_by_key={weight!r} should be one of {WEIGHTS}")


def _is_number(value: Any, kind: type[float]) -> bool:
    is_kind = isinstance(value, (int, kind)) and not isinstance(value, bool)
    return is_kind and math.isfinite(value)


class Cohort:
    """The sampled clients as the inner strategy's whole world: node ids are partition ids."""

    def __init__(self, partitions: list[int]) -> None:
        self.partitions = partitions

    def get_node_ids(self) -> list[int]:
        """Return the partitions of this round."""
        return self.partitions
