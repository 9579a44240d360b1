"""What a client says that its rows have spent, in the reply of a private turn.

It tells of no row: it follows from how many there are, the configuration and the turns taken.
"""

import math
from dataclasses import asdict, dataclass

from flwr.app import ConfigRecord, Message

from fl_app.codecs import WireError

SPENT = "spent"  # a record of the reply
MOST = 1e9


@dataclass(frozen=True)
class Spent:
    """Private turns that had a client's rows, this one included, and their epsilon at delta."""

    turns: int
    epsilon: float
    delta: float

    def record(self) -> ConfigRecord:
        """Return it as a record of a reply."""
        return ConfigRecord(asdict(self))


def read(reply: Message) -> Spent:
    """Return what a private turn's reply says.

    Raises
    ------
    WireError
        If it says nothing, or nothing that can be.
    """
    said = reply.content.config_records.get(SPENT)
    if said is None or {*said} != {"turns", "epsilon", "delta"}:
        raise WireError("a private turn's reply does not say what its rows have spent")
    turns, epsilon, delta = (said[key] for key in ("turns", "epsilon", "delta"))
    if (
        type(turns) is not int
        or not 1 <= turns <= MOST
        or not isinstance(epsilon, float)
        or not isinstance(delta, float)
        or not math.isfinite(epsilon)
        or not 0 <= epsilon <= MOST
        or not 0 < delta < 1
    ):
        raise WireError(f"turns={turns!r}, epsilon={epsilon!r}, delta={delta!r} cannot be")
    return Spent(turns, epsilon, delta)
