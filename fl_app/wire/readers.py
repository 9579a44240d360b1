"""What is read out of messages, on both sides: typed, within a range, or refused.

Flower's records hold numbers, texts, bytes and lists of these, of any size, and say nothing of what
a key should be. Nothing that another side has put into one is used before it went through here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from omegaconf import DictConfig

from fl_app.codecs import WireError
from fl_app.faults.printable import printable
from fl_app.wire.messages import CONFIG, EXCHANGE

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, Message, MetricRecord

PARTITION, ROUND = "partition", "server-round"  # of a question: who is asked, and in which round
MOST_EXCHANGES = 2**20  # of a round
SHOWN = 40  # characters of a wrong value that an error shows
LARGEST = sys.float_info.max

Said: TypeAlias = "ConfigRecord | MetricRecord | Mapping[str, Any]"
"""Values by name: of a record, or of a head."""


def record(message: Message, name: str = CONFIG) -> ConfigRecord:
    """Return a message's record of that name.

    Raises
    ------
    WireError
        If it has none.
    """
    if not message.has_content() or name not in message.content.config_records:
        raise WireError(f"the message has no record '{name}'")
    return message.content.config_records[name]


def client(said: Said, cfg: DictConfig) -> int:
    """Return which client of the run a question is for; WireError if it names none."""
    return integer(said, PARTITION, 0, cfg.federation.clients - 1)


def turn(said: Said, cfg: DictConfig) -> tuple[int, int]:
    """Return which client of the run is asked, and in which of its rounds; WireError if neither."""
    return client(said, cfg), server_round(said, cfg)


def server_round(said: Said, cfg: DictConfig) -> int:
    """Return in which of the run's rounds a question is asked; WireError if it names none."""
    return integer(said, ROUND, 1, cfg.rounds)


def exchange(said: Said) -> int:
    """Return which of a round's exchanges a question is of: the first, 0, if it says nothing."""
    return integer({EXCHANGE: 0, **said}, EXCHANGE, 0, MOST_EXCHANGES)


def integer(values: Said, name: str, least: int, most: int) -> int:
    """Return a whole number in least..most; WireError if it is missing, another type or beyond."""
    value = values.get(name)
    if type(value) is not int or not least <= value <= most:
        raise _wrong(name, value, f"a whole number in {least}..{most}")
    return value


def number(values: Said, name: str, least: float = -LARGEST, most: float = LARGEST) -> float:
    """Return a finite number in [least, most]; WireError if it is missing or another."""
    value = values.get(name)
    if not _is_number(value) or not least <= cast(float, value) <= most:
        raise _wrong(name, value, f"a number in [{least:g}, {most:g}]")
    return float(cast(float, value))


def integers(
    values: ConfigRecord, name: str, least: int, most: int, count: int | range
) -> list[int]:
    """Return a list of ``count`` whole numbers in least..most.

    Raises
    ------
    WireError
        If it is missing or another.
    """
    value = values.get(name)
    if not _is_list(value, count, lambda one: type(one) is int and least <= one <= most):
        raise _wrong(name, value, f"{_many(count)} whole numbers in {least}..{most}")
    return cast(list[int], value)


def texts(values: ConfigRecord, name: str, size: int, count: int | range) -> list[bytes]:
    """Return a list of ``count`` byte strings of ``size`` each.

    Raises
    ------
    WireError
        If it is missing or another.
    """
    value = values.get(name)
    if not _is_list(value, count, lambda one: type(one) is bytes and len(one) == size):
        raise _wrong(name, value, f"{_many(count)} byte strings of {size} each")
    return cast(list[bytes], value)


def names(values: ConfigRecord, name: str, form: re.Pattern[str], most: int) -> list[str]:
    """Return a list of at most so many texts, each of a form; WireError if it is another."""
    value = values.get(name)
    if not _is_list(
        value, range(most + 1), lambda one: isinstance(one, str) and form.fullmatch(one) is not None
    ):
        raise _wrong(name, value, f"at most {most} texts of the form {form.pattern}")
    return cast(list[str], value)


def text(values: ConfigRecord, name: str, size: int) -> bytes:
    """Return a byte string of ``size``; WireError if it is missing or another."""
    value = values.get(name)
    if type(value) is not bytes or len(value) != size:
        raise _wrong(name, value, f"{size} bytes")
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


def _is_list(value: object, count: int | range, fits: Callable[[object], bool]) -> bool:
    counts = range(count, count + 1) if isinstance(count, int) else count
    return isinstance(value, list) and len(value) in counts and all(map(fits, value))


def _many(count: int | range) -> str:
    return str(count) if isinstance(count, int) else f"{count.start} to {count.stop - 1}"


def _wrong(name: str, value: object, should: str) -> WireError:
    """Return the error; of a list or a byte string it shows the length, as it may be huge."""
    if isinstance(value, (list, bytes, str)):
        shown = f"a {type(value).__name__} of {len(value)}"
        if isinstance(value, str) and len(value) <= SHOWN:
            shown = f"'{printable(value)}'"
    else:
        shown = repr(value)
    return WireError(f"{name}={shown} should be {should}")
