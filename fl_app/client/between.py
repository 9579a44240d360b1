"""What a client keeps between the exchanges of one round, in Flower's ``Context.state``.

Every message may be answered by a process of its own. It is no memory of the run: the next round
begins without it, and a round that was interrupted is repeated from its first exchange.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fl_app.faults import FaultError
from fl_app.tree import Tree, below, under

ROUND, DONE = "round", "done"  # of what is kept: its round, and the exchanges behind it
MODEL, KEPT = "model/", "kept/"  # the broadcast that the round began with; what the method keeps


@dataclass(frozen=True)
class Between:
    """The records of one client about one exchange of a round."""

    records: RecordDict
    client: int
    server_round: int
    exchange: int

    def recall(self, broadcast: Tree) -> tuple[Tree, Mapping[str, np.ndarray]]:
        """Return the round's broadcast and what the exchange before kept.

        Parameters
        ----------
        broadcast : Tree
            The model that the message brings, theta0 if it brings none; the first exchange's is
            the round's.

        Raises
        ------
        FaultError
            If nothing is kept of the exchange before this one: the node has lost its state, or
            the message is not the next one of the round.
        """
        if not self.exchange:
            return broadcast, {}
        said = self.records.config_records.get(self._name("said"), ConfigRecord())
        if (said.get(ROUND), said.get(DONE)) != (self.server_round, self.exchange):
            raise FaultError("lost_memory")
        arrays = self.records.array_records[self._name("arrays")]
        values = {name: array.numpy() for name, array in arrays.items()}
        return below(MODEL, values), below(KEPT, values)

    def keep(self, broadcast: Tree, kept: Mapping[str, np.ndarray]) -> None:
        """Keep what the next exchange needs; nothing if the method keeps nothing."""
        for name in ("said", "arrays"):
            self.records.pop(self._name(name), None)
        if not kept:
            return
        whole = {**under(MODEL, broadcast), **under(KEPT, kept)}
        self.records[self._name("arrays")] = ArrayRecord({n: Array(x) for n, x in whole.items()})
        self.records[self._name("said")] = ConfigRecord(
            {ROUND: self.server_round, DONE: self.exchange + 1}
        )

    def _name(self, what: str) -> str:
        return f"between.{self.client}.{what}"
