"""What a client's codec remembers between rounds, in Flower's ``Context.state``.

A sender cannot know whether its reply arrived. So it keeps two states: the one that its last reply
started from and the one after it, each under the number of the round that made it. The server's
next message names the last round whose reply it accepted, and the client goes on from the state of
that round; the other one is forgotten. A reply that was lost is then as if it had never been sent,
and none is counted twice. A client that lost its state starts afresh and says so, and the server
forgets too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from fl_app.codecs import Codec, State, Tree

ACCEPTED = "accepted"  # in a message's config: the round whose reply the server accepted last
SINCE = "since"  # in a reply's timing: the round whose state this reply started from, 0 for none


@dataclass(frozen=True)
class Memory:
    """The states of one client's codec, in the records of its node."""

    records: RecordDict
    partition: int

    def recall(self, accepted: int, codec: Codec, ref: Tree, seed: int) -> tuple[State, int]:
        """Return the state after the reply of round ``accepted``, and that round.

        Every other state is forgotten. A new state and 0 if there is none of that round, or if
        what is there was made by another codec.
        """
        fresh = codec.init(ref, seed)
        kept = self.records.get(self._key(accepted)) if accepted else None
        for key in [key for key in self.records if key.startswith(self._key(""))]:
            if key != self._key(accepted):
                del self.records[key]
        if not isinstance(kept, ArrayRecord):
            return fresh, 0
        try:
            return from_record(kept, fresh), accepted
        except ValueError:
            return fresh, 0

    def remember(self, server_round: int, state: State) -> None:
        """Keep the state after the reply of ``server_round``."""
        self.records[self._key(server_round)] = to_record(state)

    def _key(self, server_round: int | str) -> str:
        return f"codec.{self.partition}.{server_round}"


def to_record(state: State) -> ArrayRecord:
    """Return the arrays of a codec's state, numbered in order."""
    return ArrayRecord({str(i): Array(x) for i, x in enumerate(_leaves(state))})


def from_record(record: ArrayRecord, like: State) -> State:
    """Return a state with the structure of ``like`` and the arrays of ``record``.

    Raises
    ------
    ValueError
        If number, shapes or types of the arrays are others.
    """
    leaves = list(_leaves(like))
    arrays = [record[str(i)].numpy() for i in range(len(leaves)) if str(i) in record]
    if len(arrays) != len(record) or [(x.shape, x.dtype) for x in arrays] != [
        (x.shape, x.dtype) for x in leaves
    ]:
        raise ValueError("the state is not that of this codec and these tensors")
    return _filled(like, iter(arrays))


def _leaves(state: State) -> Iterator[np.ndarray]:
    if isinstance(state, np.ndarray):
        yield state
    else:
        for part in state.values() if isinstance(state, dict) else state:
            yield from _leaves(part)


def _filled(like: State, arrays: Iterator[np.ndarray]) -> State:
    if isinstance(like, np.ndarray):
        return np.array(next(arrays))  # writable and contiguous
    if isinstance(like, dict):
        return {name: _filled(part, arrays) for name, part in like.items()}
    return tuple(_filled(part, arrays) for part in like)
