"""Flower's habits: keys of a run's config that stand for options, beside ``overrides``.

``flwr run . --run-config "num-server-rounds=3 fraction-train=0.2 local-epochs=1"`` works as in
Flower's own examples. pyproject.toml declares every key with 0, which says nothing. Server, nodes
and a resumed run read the overrides that are written here, and no other place knows the keys.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fl_app.config.composition import compose, words_of
from fl_app.config.data_only import key_of, parsed
from fl_app.config.keys import ConfigError

OVERRIDES = "overrides"
WHOLE = {"num-server-rounds": "rounds", "local-epochs": "local_epochs", "batch-size": "batch_size"}
POSITIVE = {"learning-rate": "optimizer.lr"}
SHARES = {
    "fraction-train": "clients_per_round",
    "fraction-evaluate": "evaluate_clients_per_round",
}
OPTIONS = {**WHOLE, **POSITIVE, **SHARES}


def overrides_of(run_config: Mapping[str, Any]) -> str:
    """Return the overrides of a run, with what Flower's usual keys say.

    A share of the clients is rounded down, as in Flower's strategies, to at least one client.

    Parameters
    ----------
    run_config : mapping
        Of Flower's context.

    Raises
    ------
    ConfigError
        If a key has a value that it cannot have, or says other than the overrides.
    """
    # Types are told apart: true is no 1.
    said = tuple((key, type(value), value) for key, value in given(run_config).items())
    return _joined(str(run_config[OVERRIDES]), said)


def given(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Flower's usual keys say, of those that say something, as it was given."""
    said = {key: run_config[key] for key in OPTIONS if key in run_config}
    return {key: value for key, value in said.items() if value is False or value != 0}


@lru_cache(maxsize=16)
def _joined(overrides: str, said: tuple[tuple[str, type, Any], ...]) -> str:
    if not said:
        return overrides
    typed = {key_of(parsed(word)): word for word in words_of(overrides)}
    words = []
    for key, _, value in said:
        option, meant = OPTIONS[key], _value(key, value, overrides)
        word = f"{option}={meant}"
        if option in typed and not _says(typed[option], meant):
            raise ConfigError(
                f"{key}={value} of --run-config means {word}, and overrides has {typed[option]}: "
                "give one of the two"
            )
        words.append(word)
    return " ".join(filter(None, [overrides, *words]))


def _says(word: str, value: float) -> bool:
    """Tell whether an override gives an option this value, however it is written."""
    said = parsed(word).value()
    return not word.startswith("~") and type(said) in (int, float) and bool(said == value)


def _value(key: str, value: Any, overrides: str) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in WHOLE:
        should, holds = "a whole number above 0", type(value) is int and value > 0
    elif key in POSITIVE:
        should, holds = "a number above 0", is_number and 0 < value < float("inf")
    else:
        should, holds = "a share of the clients, in (0, 1]", is_number and 0 < value <= 1
    if not holds:
        raise ConfigError(f"{key}={value!r} of --run-config should be {should}; 0 says nothing")
    if key in SHARES:
        return max(1, int(value * compose(overrides).federation.clients))
    found: int | float = value
    return found
