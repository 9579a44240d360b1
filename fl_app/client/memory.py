"""What a client remembers between rounds, in Flower's ``Context.state`` and on disk.

That is the state of its codec, and what the client's half of the method keeps.

A sender cannot know whether its reply arrived. So it keeps two states: the one that its last reply
started from and the one after it, each under the number of the round that made it. The server's
next message names the last round whose reply it accepted, and the client goes on from the state of
that round; the other one is forgotten. A reply that was lost is then as if it had never been sent,
and none is counted twice. ``Context.state`` ends with the run, so the same is in a file of the node
(``fl_app.client.disk``), for a run that is resumed. A client that lost both starts afresh and says
so, and the server forgets too.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fl_app.codecs import State
from fl_app.faults.printable import printable
from fl_app.files import atomic_file

logger = logging.getLogger("thinwire")

HEADER_BYTES = 1000  # of a file, and of an array in it, at most


@dataclass(frozen=True)
class Memory:
    """The states of one client, in the records of its node and in files.

    Parameters
    ----------
    folders : sequence of Path
        The first is written to; all are looked through for what the records lack.
    """

    records: RecordDict
    partition: int
    folders: Sequence[Path] = ()

    def recall(self, accepted: int, fresh: State) -> tuple[State, int]:
        """Return the state after the reply of round ``accepted``, and that round.

        Every other state is forgotten. ``fresh`` and 0 if there is none of that round, or if what
        is there has another form: it was made by another codec or method.
        """
        kept = self.records.get(self._key(accepted)) if accepted else None
        if accepted and kept is None:
            kept = self._on_disk(accepted, fresh)
        for key in self._keys():
            if key != self._key(accepted):
                del self.records[key]
        if not isinstance(kept, ArrayRecord):
            return fresh, 0
        self.records[self._key(accepted)] = kept
        try:
            return from_record(kept, fresh), accepted
        except ValueError:
            return fresh, 0

    def remember(self, server_round: int, state: State) -> None:
        """Keep the state after the reply of ``server_round``, and that before it."""
        self.records[self._key(server_round)] = to_record(state)
        if self.folders:
            arrays = {
                f"{key.rpartition('.')[2]}/{number}": array.numpy()
                for key in self._keys()
                for number, array in cast(ArrayRecord, self.records[key]).items()
            }
            try:
                self.folders[0].mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic_file(self.folders[0] / self._file, save(arrays))
            except OSError as error:  # the reply is worth more
                logger.warning("the codec's memory is not on disk, for a resumed run: %s", error)

    def _on_disk(self, accepted: int, like: State) -> ArrayRecord | None:
        # Two states, and in the header a line for each array.
        most = HEADER_BYTES + sum(2 * (array.nbytes + HEADER_BYTES) for array in _leaves(like))
        for folder in self.folders:
            path = folder / self._file
            try:
                if path.stat().st_size > most:
                    raise ValueError(f"{path} is larger than two states of this codec")
                arrays = load(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                logger.warning("what a codec remembered is not read: %s", printable(error))
                continue
            start = f"{accepted}/"
            found = {n.removeprefix(start): x for n, x in arrays.items() if n.startswith(start)}
            if found:
                return ArrayRecord({name: Array(values) for name, values in found.items()})
        return None

    def _keys(self) -> list[str]:
        return [key for key in self.records if key.startswith(self._key(""))]

    def _key(self, server_round: int | str) -> str:
        return f"codec.{self.partition}.{server_round}"

    @property
    def _file(self) -> str:
        return f"client-{self.partition}.safetensors"


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
