"""Who was asked in a run, and whose turn was lost, late or clipped: from the ledger, by round."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fl_app.faults.printable import printable
from fl_app.wire.ledger import CLIPPED, LATE, LOST, Transfer

ROUNDS = 8  # named at most of a client, in a line
LONGEST = 60  # characters of a client's name


@dataclass
class Turns:
    """What became of the clients that a round asked, to train or to evaluate.

    Attributes
    ----------
    round : int
        From 1.
    kind : str
        "train" or "evaluate".
    asked : set of int
        Clients that got a question, or were left out of the round before they could.
    lost : dict
        Client without a usable reply -> why.
    late, clipped : set of int
        Clients whose reply came after the deadline, which are lost too; or was scaled down.
    """

    round: int
    kind: str
    asked: set[int] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    clipped: set[int] = field(default_factory=set)

    @property
    def used(self) -> list[int]:
        """Return the clients that took part, in order."""
        return sorted(self.asked - {*self.lost})

    @property
    def is_whole(self) -> bool:
        """Tell whether every reply came in time and was used as it is."""
        return not (self.lost or self.late or self.clipped)


def by_round(rows: Iterable[Transfer]) -> list[Turns]:
    """Return the turns of every round, training first.

    A ledger of an earlier version does not say who was lost.
    """
    found: dict[tuple[int, str], Turns] = {}
    for row in rows:
        kind = row.kind if row.kind == "evaluate" else "train"
        if row.kind == "setup" and row.outcome != LOST:
            continue  # no turn: what a node serves, say
        turns = found.setdefault((row.round, kind), Turns(row.round, kind))
        if row.direction == "down":
            turns.asked.add(row.partition)
        if row.outcome == LOST:
            turns.lost[row.partition] = row.reason
        elif row.outcome == LATE:
            turns.late.add(row.partition)
        elif row.outcome == CLIPPED:
            turns.clipped.add(row.partition)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] != "train"))]


def summary(
    rows: Iterable[Transfer], absent: Mapping[int, str], called: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """Return ``clients`` of summary.json.

    Parameters
    ----------
    absent : mapping
        Client that no round could ask -> why.
    called : mapping
        Client -> its name, where a column of the rows names it; None: nowhere.

    Returns
    -------
    dict
        Numbers of turns, ``asked``, ``lost``, ``late`` and ``clipped``; ``absent``; ``names``; and
        ``by_round``, of the rounds in which anything was lost, late or clipped.
    """
    found = by_round(rows)
    names = ("asked", "lost", "late", "clipped")
    return {
        **{name: sum(len(getattr(turns, name)) for turns in found) for name in names},
        "absent": {str(client): why for client, why in absent.items()},
        "names": {str(client): name for client, name in (called or {}).items()},
        "by_round": [
            {
                "round": turns.round,
                "kind": turns.kind,
                "lost": {str(client): turns.lost[client] for client in sorted(turns.lost)},
                "late": sorted(turns.late),
                "clipped": sorted(turns.clipped),
            }
            for turns in found
            if not turns.is_whole
        ],
    }


def losses(
    found: Iterable[tuple[int, Mapping[Any, str]]], called: Callable[[int], object] = int
) -> list[str]:
    """Return a text for each client that lost turns: in which rounds, and why at first.

    Parameters
    ----------
    found : iterable of (int, mapping)
        A round, and client -> reason of those that it lost.
    called : callable
        Returns a client's name; by default its number.
    """
    rounds: dict[int, list[int]] = defaultdict(list)
    why: dict[int, str] = {}
    for number, lost in found:
        for client, reason in lost.items():
            rounds[int(client)].append(number)
            why.setdefault(int(client), reason)
    found_in = {client: _listed(rounds[client]) for client in sorted(rounds)}
    said = {client: printable(why[client]) for client in found_in}
    return [
        f"client {called(client)} in {where}{f': {said[client]}' if said[client] else ''}"
        for client, where in found_in.items()
    ]


def _listed(rounds: list[int]) -> str:
    numbers = list(dict.fromkeys(rounds))
    more = len(numbers) - ROUNDS
    named = ", ".join(map(str, numbers[:ROUNDS])) + (f" and {more} more" if more > 0 else "")
    return f"round {named}" if len(numbers) == 1 else f"rounds {named}"


def mark(lost: int, absent: int) -> str:
    """Return what stands beside the name of a run that lost somebody: "3 turns lost"; else ""."""
    parts = []
    if lost:
        parts.append(f"{lost} turn{'s' * (lost > 1)} lost")
    if absent:
        parts.append(f"{absent} client{'s' * (absent > 1)} absent")
    return ", ".join(parts)
