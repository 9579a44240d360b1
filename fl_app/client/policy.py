"""A node's policy: what its operator lets a run do here, in a YAML file that only the node reads.

``policy`` of the node config names the file; ``deploy/policy.yaml`` is the strict one, with all
keys and what they mean, and a node without a file has the same. A key that a file leaves out is
strict. A simulation has a policy only where ``THINWIRE_POLICY`` names one.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Context

from fl_app.client.node_config import POLICY
from fl_app.client.simulated import is_simulated
from fl_app.faults import FaultError

VARIABLE = "THINWIRE_POLICY"  # of a simulation
MOST_BYTES = 64 * 1024  # of a file
ALL = "all"
DP_SGD = "dp_sgd"
PATTERN = re.compile(r"[\w.*-]+(/[\w.*-]+)?")  # of a hub id; * stands for anything but /


class PolicyError(ValueError):
    """A policy file that cannot be read, or does not say what it should."""


class RefusedError(FaultError):
    """The policy forbids what a run asks for.

    Parameters
    ----------
    rule : str
        The key of the policy.
    key : str
        The key of the run's configuration, or what else is forbidden.
    limit : str
        What the rule allows, where that is a number or a name of this project.
    """

    def __init__(self, rule: str, key: str, limit: str = "") -> None:
        self.rule, self.key = rule, key
        super().__init__("policy", rule=rule, key=key, limit=f": {limit}" if limit else "")


# ---- what a value should be ---------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any, holds: Callable[[str], object]) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and holds(one) for one in value)


Kind = tuple[str, Callable[[Any], bool]]
FOLDERS: Kind = (
    "a list of absolute paths",
    lambda x: _is_list(x, lambda one: Path(one).is_absolute() and ".." not in Path(one).parts),
)
HUB: Kind = (
    "a list of hub ids, in which * stands for a part: [meta-math/*]",
    lambda x: _is_list(x, PATTERN.fullmatch),
)
NAMES: Kind = ("a list of names", lambda x: _is_list(x, str.strip))
CHOICE: Kind = (f"{ALL} or a list of names", lambda x: x == ALL or NAMES[1](x))
BOOL: Kind = ("true or false", lambda x: isinstance(x, bool))
COUNT: Kind = ("a whole number of at least 0", _is_count)
LIMIT: Kind = ("null or a whole number of at least 0", lambda x: x is None or _is_count(x))
EPSILON: Kind = ("null or a number of at least 0", lambda x: x is None or _is_number(x))
DELTA: Kind = ("null or a number in (0, 1)", lambda x: x is None or (_is_number(x) and 0 < x < 1))
REQUIRED: Kind = (f"none or {DP_SGD}", lambda x: x in ("none", DP_SGD))
NOISE: Kind = ("any, seeded or secret", lambda x: x in ("any", "seeded", "secret"))


def _key(kind: Kind, default: Any) -> Any:
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Models:
    """Where models, tokenizers and visual encoders may come from, beside the embedded ones."""

    folders: tuple[str, ...] = _key(FOLDERS, ())
    hub: tuple[str, ...] = _key(HUB, ())


@dataclass(frozen=True)
class Rows:
    """Where rows may come from, beside the node's ``data-path``, and how many are trained on."""

    folders: tuple[str, ...] = _key(FOLDERS, ())
    hub: tuple[str, ...] = _key(HUB, ())
    part: bool = _key(BOOL, False)
    least: int = _key(COUNT, 4)
    most: int | None = _key(LIMIT, None)


@dataclass(frozen=True)
class RunLimits:
    """What a run may be, and how much of the node it may have."""

    tasks: str | tuple[str, ...] = _key(CHOICE, ALL)
    adapters: str | tuple[str, ...] = _key(CHOICE, ALL)
    codecs: str | tuple[str, ...] = _key(CHOICE, ALL)
    refused_strategies: tuple[str, ...] = _key(NAMES, ())
    rounds: int | None = _key(LIMIT, 1000)
    local_epochs: int | None = _key(LIMIT, 100)
    turns: int | None = _key(LIMIT, 2000)
    bytes: int | None = _key(LIMIT, 10**12)


@dataclass(frozen=True)
class Privacy:
    """What differential privacy a run must have."""

    required: str = _key(REQUIRED, "none")
    epsilon: float | None = _key(EPSILON, None)
    delta: float | None = _key(DELTA, None)
    noise: str = _key(NOISE, "secret")


@dataclass(frozen=True)
class SecureSum:
    """What secure aggregation a run must have."""

    required: bool = _key(BOOL, False)
    least: int = _key(COUNT, 3)


@dataclass(frozen=True)
class Policy:
    """All rules of a node; the defaults are the strict ones.

    Attributes
    ----------
    digest : str
        SHA-256 of the file, in hex; "strict" without one.
    """

    models: Models = Models()
    rows: Rows = Rows()
    run: RunLimits = RunLimits()
    privacy: Privacy = Privacy()
    secure_sum: SecureSum = SecureSum()
    digest: str = field(default="strict", compare=False)


# ---- reading ------------------------------------------------------------------------------------


def of(context: Context) -> Policy | None:
    """Return the policy that holds for a node; None in a simulation that was given none.

    Raises
    ------
    PolicyError
        If its file cannot be used. Then the node serves no run.
    """
    if is_simulated():
        return read(Path(path)) if (path := os.environ.get(VARIABLE)) else None
    if POLICY not in context.node_config:
        return Policy()
    return read(Path(str(context.node_config[POLICY])))


def check_rows(context: Context, rows: int) -> None:
    """Check how many rows a client would be trained or scored on.

    Raises
    ------
    RefusedError
        If they are too few or too many.
    """
    policy = of(context)
    if policy is None:
        return
    least, most = policy.rows.least, policy.rows.most
    if rows < least:
        raise RefusedError("rows.least", "what this node holds", f"at least {least} rows")
    if most is not None and rows > most:
        raise RefusedError("rows.most", "what this node holds", f"at most {most} rows")


def read(path: Path) -> Policy:
    """Return the policy in a file.

    Raises
    ------
    PolicyError
        In one line: what is wrong and where.
    """
    try:
        if not path.is_absolute():
            raise PolicyError("the path should be absolute")
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IWOTH:
                raise PolicyError("every user of this machine may change it: chmod o-w")
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise PolicyError(f"it is longer than {MOST_BYTES} bytes")
        return replace(_parsed(data), digest=hashlib.sha256(data).hexdigest())
    except OSError as error:
        raise PolicyError(f"the policy {path} cannot be read: {error.strerror}") from None
    except PolicyError as error:
        raise PolicyError(f"the policy {path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Plain data without anchors, aliases, merges and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise PolicyError(f"line {event.start_mark.line + 1}: anchors and aliases are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise PolicyError(f"line {node.start_mark.line + 1}: {twice[0]!r} is there twice")
        return super().construct_mapping(node, deep)


def _parsed(data: bytes) -> Policy:
    try:
        said = yaml.load(data, _Loader)  # noqa: S506 # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise PolicyError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"it is no YAML: {type(error).__name__}") from None
    except PolicyError:
        raise
    except ValueError as error:  # such as a date that is none
        raise PolicyError(f"it is no YAML: {error}") from None
    return _filled(Policy(), {} if said is None else said)


def _filled(strict: Any, said: Any, path: str = "") -> Any:
    """Return ``strict`` with what the file says instead."""
    if not isinstance(said, dict):
        raise PolicyError(f"{path.rstrip('.') or 'the file'} should be a mapping of keys to values")
    known = {one.name: one for one in fields(strict) if one.compare}
    if unknown := [key for key in said if key not in known]:
        raise PolicyError(f"{path}{unknown[0]} is no key; known here: {', '.join(known)}")
    given: dict[str, Any] = {}
    for name, value in said.items():
        default = getattr(strict, name)
        if is_dataclass(default):
            given[name] = _filled(default, value, f"{path}{name}.")
            continue
        should, holds = known[name].metadata["kind"]
        if not holds(value):
            raise PolicyError(f"{path}{name}={value!r} should be {should}")
        given[name] = tuple(value) if isinstance(value, list) else value
    return replace(strict, **given)


def main(arguments: list[str]) -> int:
    """``python -m fl_app.client.policy FILE``: check a policy before the node starts."""
    if len(arguments) != 1:
        print("usage: python -m fl_app.client.policy FILE", file=sys.stderr)
        return 2
    try:
        read(Path(arguments[0]))
    except PolicyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
