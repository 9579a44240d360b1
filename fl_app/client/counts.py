"""What a run has had of a node so far: counted on its disk, by message, whatever messages say.

``STATE/RUN/counts-K.json``, K the node's partition-id. Every message to a deployed node is answered
by a process of its own, so that nothing else would last from one to the next.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message

from fl_app.client import disk
from fl_app.client.node_config import PARTITION
from fl_app.client.policy import Policy, RefusedError


@dataclass
class Counts:
    """Messages that worked on the node's rows, and bytes received and sent."""

    turns: int = 0
    bytes: int = 0

    def check(self, policy: Policy) -> None:
        """Refuse what is more than the policy allows.

        Raises
        ------
        RefusedError
            Naming the limit.
        """
        for key, count, most in (
            ("turns", self.turns, policy.run.turns),
            ("bytes", self.bytes, policy.run.bytes),
        ):
            if most is not None and count > most:
                raise RefusedError(f"run.{key}", f"more {key} of this run", f"at most {most}")


@contextmanager
def counted(context: Context) -> Iterator[Counts]:
    """Give the run's counts to add to; they are kept, also if the block raises.

    Raises
    ------
    OSError
        If they cannot be kept: then nothing may be done.
    ValueError
        If the file is not what this wrote.
    """
    folder = disk.folders(context)[0]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"counts-{int(context.node_config.get(PARTITION, 0))}.json"
    with _locked(path) as descriptor:
        said = os.pread(descriptor, 1000, 0)
        counts = Counts(**json.loads(said)) if said else Counts()
        try:
            yield counts
        finally:
            text = f"{json.dumps(asdict(counts))}\n".encode()
            os.pwrite(descriptor, text, 0)  # numbers only grow, and the text with them
            os.fsync(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file that only its owner reads, alone among the node's processes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def size(message: Message) -> int:
    """Return the bytes of a message's content: its arrays, and its other records as Flower has
    them.
    """
    if not message.has_content():
        return 0
    total = 0
    for record in message.content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        else:
            total += len(record.deflate())
    return total
