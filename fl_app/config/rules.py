"""Rules for the values of keys, which each joint states in its ``checks`` module.

A key that the selected file of a group lacks is not checked.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from fl_app.config.keys import ConfigError, plain
from fl_app.faults.suggestions import did_you_mean


class Rule(NamedTuple):
    """A rule for values.

    Attributes
    ----------
    should : str
        What a value should be, in words.
    holds : callable
        Tells whether a value obeys the rule.
    """

    should: str
    holds: Callable[[Any], bool]


Choices = Mapping[str, Collection[str]]
Rules = tuple[tuple[Rule, tuple[str, ...]], ...]
_ABSENT = object()


def check_choices(cfg: DictConfig, choices: Choices) -> None:
    """Check that the value of each key is in the key's list.

    Raises
    ------
    ConfigError
        If one is not; the message names the key and the list.
    """
    for key, known in choices.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and value not in known:
            similar = did_you_mean(value, known)
            raise ConfigError(f"{key}={value} should be one of {sorted(known)}.{similar}")


def check_rules(cfg: DictConfig, rules: Rules) -> None:
    """Check each key by its rule.

    Raises
    ------
    ConfigError
        If a value breaks its rule; the message names the key and what the value should be.
    """
    for rule, keys in rules:
        for key in keys:
            value = OmegaConf.select(cfg, key, default=_ABSENT)
            if value is not _ABSENT and not rule.holds(plain(value)):
                raise ConfigError(f"{key}={value!r} should be {rule.should}")


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and not a bool."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can be
        return False


def is_share(value: Any) -> bool:
    """Tell whether a value is a number in [0, 1)."""
    return is_number(value) and 0 <= value < 1


def is_whole(value: Any, least: int) -> bool:
    """Tell whether a value is a whole number of at least ``least``."""
    return type(value) is int and value >= least


def is_name(value: Any) -> bool:
    """Tell whether a value is a text that is not blank."""
    return isinstance(value, str) and value.strip() != ""


def is_list_of_names(value: Any) -> bool:
    """Tell whether a value is a list of names, which may be empty."""
    return isinstance(value, list) and all(map(is_name, value))


POSITIVE = Rule("greater than 0 and finite", lambda x: is_number(x) and x > 0)
NOT_NEGATIVE = Rule("at least 0 and finite", lambda x: is_number(x) and x >= 0)
SHARE = Rule("in [0, 1)", is_share)
UNIT = Rule("in [0, 1]", lambda x: is_number(x) and 0 <= x <= 1)
SEED = Rule("in [0, 2^63)", lambda x: is_number(x) and 0 <= x < 2**63)
NUMBER_OR_NULL = Rule("a number or null", lambda x: x is None or is_number(x))
POSITIVE_OR_NULL = Rule("null or greater than 0", lambda x: x is None or POSITIVE.holds(x))
COUNT = Rule("a whole number greater than 0", lambda x: is_whole(x, 1))
COUNT_OR_NULL = Rule("null or a whole number greater than 0", lambda x: x is None or is_whole(x, 1))
NAME = Rule("a name", is_name)
NAME_OR_NULL = Rule("null or a name", lambda x: x is None or is_name(x))
NAMES = Rule("a list of names", is_list_of_names)
