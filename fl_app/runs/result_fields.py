"""The fields of a stored result and what each should be: nothing of the file is read before."""

import re
from collections.abc import Iterator
from typing import Any, get_args

from fl_app.config.rules import NAME_OR_NULL, NUMBER_OR_NULL, Rule, is_number, is_whole
from fl_app.faults.printable import printable
from fl_app.wire.ledger import CLIPPED, LATE, LOST, Direction, Kind

COUNTS = ("scalars", "payload_bytes", "frame_bytes", "message_bytes", "competition_bytes")
SENT = ("transfers", *COUNTS)
OUTCOMES = (LOST, LATE, CLIPPED)
TRANSFERS = tuple(f"{kind} {way}" for kind in get_args(Kind) for way in get_args(Direction))
LONGEST = 60  # characters of a wrong value that an error shows
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _has(value: Any, holds: Any) -> bool:
    return isinstance(value, dict) and all(map(holds, value.values()))


TEXT = Rule("a text", _is_text)
WHOLE = Rule("a whole number in [0, 2^63)", lambda x: is_whole(x, 0) and x < 2**63)
NUMBER = Rule("a finite number", is_number)
DIGEST = Rule("a SHA-256 in hex", lambda x: _is_text(x) and _DIGEST.fullmatch(x) is not None)
A_TRANSFER = Rule(f"one of {', '.join(TRANSFERS)}", TRANSFERS.__contains__)
TURNS = Rule("train or evaluate", ("train", "evaluate").__contains__)
CLIENTS = Rule(
    "a list of clients", lambda x: isinstance(x, list) and all(is_whole(k, 0) for k in x)
)
MAPPING = Rule("a mapping", lambda x: isinstance(x, dict))

FIELDS: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (MAPPING, ("config", "machine", "seconds", "target")),
    (DIGEST, ("config.digest",)),
    (WHOLE, ("format", "config.version", "seed", "trainable_scalars", "frame_version")),
    (
        TEXT,
        (
            "checksum", "experiment", "theta0_digest",
            "machine.processor", "machine.system", "machine.device",
        ),
    ),
    (Rule("completed: only such a run has a result", lambda x: x == "completed"), ("status",)),
    (
        Rule(
            "a mapping of texts to texts or null",
            lambda x: _has(x, lambda one: one is None or _is_text(one)),
        ),
        ("overrides",),
    ),
    (Rule("a mapping of texts to texts", lambda x: _has(x, _is_text)), ("versions",)),
    (Rule("a mapping of texts to numbers", lambda x: _has(x, is_number)), ("seconds",)),
    (NUMBER, ("seconds.total", "machine.memory_gib")),
    (Rule("a whole number above 0", lambda x: WHOLE.holds(x) and x > 0), ("machine.cores",)),
    (NUMBER_OR_NULL, ("machine.load", "target.value")),
    (NAME_OR_NULL, ("target.metric",)),
    (Rule("null or a mapping", lambda x: x is None or isinstance(x, dict)), ("privacy",)),
    (Rule("a list of mappings", lambda x: isinstance(x, list)), ("rounds",)),
)  # fmt: skip
PRIVACY: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (NUMBER, ("privacy.epsilon", "privacy.delta", "privacy.noise_multiplier")),
    (TEXT, ("privacy.unit", "privacy.noise")),
)


def check(content: Any) -> None:
    """Check that every field that is read has the type that its readers take for granted.

    Raises
    ------
    ValueError
        If one is missing or of another type; the message names it, dotted.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    for rule, keys in (*FIELDS, *(PRIVACY if content.get("privacy") else ())):
        for key in keys:
            _check(key, _field(content, key), rule)
    for key, value, rule in _of_rounds(content["rounds"]):
        _check(key, value, rule)


def _of_rounds(rounds: list[Any]) -> Iterator[tuple[str, Any, Rule]]:
    """Yield key, value and rule of every field of the rounds."""
    for index, one in enumerate(rounds):
        where = f"rounds.{index}"
        yield where, one, MAPPING
        yield f"{where}.round", _field(one, "round", where), WHOLE
        for part in ("scores", "sent"):
            yield f"{where}.{part}", _field(one, part, where), MAPPING
        for split, scores in one["scores"].items():
            yield f"{where}.scores.{split}", scores, MAPPING
            for metric, value in scores.items():
                yield f"{where}.scores.{split}.{metric}", value, NUMBER
        for name, sums in one["sent"].items():
            kind = f"{where}.sent.{name}"
            yield kind, name, A_TRANSFER
            yield kind, sums, MAPPING
            for count in SENT:
                yield f"{kind}.{count}", _field(sums, count, kind), WHOLE
        yield from _of_turns(f"{where}.turns", one.get("turns", {}))


def _of_turns(where: str, turns: Any) -> Iterator[tuple[str, Any, Rule]]:
    """Yield the fields of a round's turns that were lost, late or clipped, if it has any."""
    yield where, turns, MAPPING
    for name, found in turns.items():
        yield f"{where}.{name}", name, TURNS
        yield f"{where}.{name}", found, MAPPING
        for outcome in OUTCOMES:
            key = f"{where}.{name}.{outcome}"
            yield key, _field(found, outcome, f"{where}.{name}"), CLIENTS


def _field(content: Any, key: str, where: str = "") -> Any:
    """Return the value of a dotted key below ``where``."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            raise ValueError(f"it has no {printable(f'{where}.{key}' if where else key)}")
        content = content[part]
    return content


def _check(key: str, value: Any, rule: Rule) -> None:
    if not rule.holds(value):
        said = printable(repr(value), LONGEST)
        raise ValueError(f"{printable(key)}={said} should be {rule.should}")
