"""The result of a run as one small JSON that is kept when the run's folder is gone.

It has what tables and pictures are made of: scores and bytes by round, seconds by phase, what
differs from the defaults, versions and machine. It names no host and no path. A result belongs to a
configuration by the digest of the resolved configuration (``configurations.digest``) and the seed.

A round that lost a client's turn, or had a late or clipped reply, says whose: without a reason,
which could name a file. Where it says nothing, nothing was lost.

Sums and selected rounds stand in the file for its readers, though they follow from the rounds. A
file in which they do not follow, or whose checksum is another one, was edited and is refused. This
finds mistakes, not forgers.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_app.config import ConfigError, compose, plain, read_text
from fl_app.faults.printable import printable
from fl_app.runs import clients, result_fields, selection
from fl_app.runs.configurations import digest, key_of
from fl_app.runs.read import Run
from fl_app.runs.result_fields import COUNTS, OUTCOMES, SENT
from fl_app.runs.summary import traffic
from fl_app.wire.ledger import LOST, Direction, Transfer, Transfers

FORMAT = 1
"""Version of the file's content."""
CONFIG_VERSION = 1
"""Raised when a change in conf/ gives the overrides of stored results another meaning. Results of
an earlier version are kept, and their runs count as missing."""
DROPPED = ("seed", "output", "logger", "resume")  # overrides that make no other configuration
LARGEST = 1_000_000  # bytes; a result of ten rounds has about 6,000
COPIED = (
    "status", "trainable_scalars", "privacy", "seconds", "machine", "versions", "frame_version",
    "theta0_digest",
)  # fmt: skip
_PLACE = re.compile(r"(^|[\s\"'=:,{\[(])(/|~/|file:)")


class ResultError(ValueError):
    """A file that is not the result of a run, or a run that can leave none."""


@dataclass(frozen=True)
class Result:
    """A stored result.

    Attributes
    ----------
    path : Path
        Its file.
    content : dict
        The file's content.
    """

    path: Path
    content: dict[str, Any]

    @property
    def digest(self) -> str:
        """Return the digest of its configuration."""
        return str(self.content["config"]["digest"])

    @property
    def seed(self) -> int:
        """Return the seed of everything but the data."""
        return int(self.content["seed"])

    @property
    def overrides(self) -> str:
        """Return the overrides of its configuration, without the seed."""
        words = self.content["overrides"].items()
        return shlex.join(key if value is None else f"{key}={value}" for key, value in words)

    @property
    def is_current(self) -> bool:
        """Tell whether its overrides mean the same configuration in this version."""
        if self.content["config"]["version"] != CONFIG_VERSION:
            return False
        try:
            return digest(compose(self.overrides)) == self.digest
        except ConfigError:  # a key or an option that there is no more
            return False

    def run(self) -> Run:
        """Return it as a run that was read from its folder, for tables and pictures.

        The configuration is composed from its overrides: the result should be current. The ledger
        has one row per round, direction and kind.
        """
        overrides = f"{self.overrides} seed={self.seed}".strip()
        return Run(
            path=self.path,
            config=plain(compose(overrides)),
            summary={key: self.content[key] for key in COPIED}
            | {"overrides": overrides, "clients": {"absent": self.content.get("absent", {})}},
            metrics=_metrics(self.content["rounds"]),
            ledger=_ledger(self.content["rounds"]),
        )


def of_run(run: Run) -> dict[str, Any]:
    """Return the content of a run's result.

    Raises
    ------
    ResultError
        If the run did not complete, an earlier version wrote it, or its overrides name a file of
        this machine.
    """
    missing = [key for key in COPIED if key not in run.summary]
    if missing or run.overrides is None:
        raise ResultError(
            f"{run.path}: its summary.json has no {', '.join(missing) or 'overrides'}: it has not "
            "ended, or an earlier version wrote it; run it again"
        )
    if run.status != "completed":
        raise ResultError(f"{run.path}: its status is {run.status}: only a completed run has one")
    overrides = _typed(run.overrides)
    if named := [key for key, value in overrides.items() if _PLACE.search(value or "")]:
        raise ResultError(
            f"{run.path}: {named[0]}={overrides[named[0]]} names a file of this machine, so that "
            "nobody else could run it: a result has only names that mean the same everywhere"
        )
    rounds = _rounds(run)
    metric, goal = run.target_metric, run.option("target.value")
    content = {
        "format": FORMAT,
        "config": {"version": CONFIG_VERSION, "digest": digest(run.config)},
        "experiment": run.experiment,
        "overrides": overrides,
        "seed": run.seed,
        **{key: run.summary[key] for key in COPIED},
        "target": {"metric": metric, "value": goal},
        **({"absent": dict.fromkeys(sorted(run.absent), "")} if run.absent else {}),
        **_derived(rounds, metric, goal),
        "rounds": rounds,
    }
    return sealed(content)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result's content with its checksum: the SHA-256 of all else as canonical JSON."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {"checksum": hashlib.sha256(text.encode()).hexdigest(), **rest}


def to_text(content: Mapping[str, Any]) -> str:
    """Return a result as JSON, with a line for each round."""
    head = json.dumps({**content, "rounds": None}, indent=2).removesuffix("null\n}")
    rounds = ",\n    ".join(map(json.dumps, content["rounds"]))
    return f"{head}[\n    {rounds}\n  ]\n}}\n"


def read(path: Path) -> Result:
    """Read a result.

    Raises
    ------
    ResultError
        If it cannot be read, lacks a field or has one of another type, is of a run that did not
        complete, or says something else than its rounds; the message names file and field.
    """
    try:
        content = json.loads(read_text(path, LARGEST))
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            found = printable(content["format"], 40)
            raise ValueError(f"it has format {found}, this version reads {FORMAT}")
        _check(content)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not the result of a run: {printable(error)}") from None
    return Result(path, content)


def _check(content: dict[str, Any]) -> None:
    result_fields.check(content)
    numbers = [one["round"] for one in content["rounds"]]
    if numbers != sorted({*numbers}):
        raise ValueError(f"its rounds have the numbers {numbers}")
    target = content["target"]
    derived = _derived(content["rounds"], target["metric"], target["value"])
    for key, value in derived.items():
        if content.get(key) != value:
            raise ValueError(
                f"its {key} should be {value} by its rounds: it was edited; run it again"
            )
    if content != sealed(content):
        raise ValueError("its checksum is another one: it was edited; run it again")


def _typed(overrides: str) -> dict[str, str | None]:
    """Return the overrides that make a configuration, as typed; None for one without a value."""
    words = [word.partition("=") for word in shlex.split(overrides)]
    return {
        key: value if equals else None
        for key, equals, value in words
        if key_of(key).partition(".")[0] not in DROPPED
    }


def _rounds(run: Run) -> list[dict[str, Any]]:
    """Return scores by split, and what was sent by kind and direction, of every round."""
    numbers = {r for r, *_ in run.metrics} | {row.round for row in run.ledger.rows}
    return [
        {"round": number, "scores": _scores(run, number), "sent": _sent(run, number)}
        | _turns(run, number)
        for number in sorted(numbers)
    ]


def _turns(run: Run, number: int) -> dict[str, Any]:
    """Return whose turns were lost, late or clipped in a round, by kind; {} where none was."""
    found = {
        turns.kind: {name: sorted(getattr(turns, name)) for name in OUTCOMES}
        for turns in run.turns
        if turns.round == number and not turns.is_whole
    }
    return {"turns": found} if found else {}


def _scores(run: Run, number: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for server_round, split, metric, value in run.metrics:
        if server_round == number:
            found.setdefault(split, {})[metric] = value
    return found


def _sent(run: Run, number: int) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in run.ledger.rows:
        if row.round == number:
            sums = found.setdefault(f"{row.kind} {row.direction}", dict.fromkeys(SENT, 0))
            sums["transfers"] += 1
            for name in COUNTS:
                sums[name] += getattr(row, name)
    return found


def _metrics(rounds: list[dict[str, Any]]) -> list[selection.Metric]:
    return [
        (one["round"], split, metric, float(value))
        for one in rounds
        for split, scores in one["scores"].items()
        for metric, value in scores.items()
    ]


def _ledger(rounds: list[dict[str, Any]]) -> Transfers:
    rows = []
    for one in rounds:
        for name, sums in one["sent"].items():
            kind, direction = name.split()
            counts = {key: sums[key] for key in COUNTS}
            rows.append(Transfer(one["round"], 0, direction, kind, **counts))
        rows += _outcomes(one)
    return Transfers(rows, ("round", "direction", "kind", "outcome", *COUNTS))


def _outcomes(one: dict[str, Any]) -> list[Transfer]:
    """Return rows without bytes that say whose turns a round has lost, or had late or clipped."""
    rows = []
    for kind, found in one.get("turns", {}).items():
        for outcome in OUTCOMES:
            for client in found[outcome]:
                direction: Direction = "down" if outcome == LOST else "up"
                rows.append(Transfer(one["round"], client, direction, kind, outcome=outcome))
    return rows


def _derived(
    rounds: list[dict[str, Any]], metric: str | None, goal: float | None
) -> dict[str, Any]:
    """Return what follows from the rounds: final and best scores, the target, and sums of bytes."""
    metrics, ledger = _metrics(rounds), _ledger(rounds)
    final: dict[str, dict[str, float]] = {}
    for _, split, name, value in metrics:
        final.setdefault(split, {})[name] = value
    lost = sum(len(turns.lost) for turns in clients.by_round(ledger.rows))
    best = selection.best_round(metrics, metric)
    met = selection.first_met(metrics, metric, goal)
    return {
        "final": final,
        "best": {
            "selected_on": selection.selected_on(metrics, metric),
            "round": best,
            "scores": next((one["scores"] for one in rounds if one["round"] == best), {}),
        },
        "until_target": {
            "round": met,
            "bytes": None if met is None else ledger.sent(until=met),
        },
        "bytes": traffic(ledger),
        **({"lost_turns": lost} if lost else {}),
    }
