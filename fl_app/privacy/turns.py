"""Which clients were asked for a private turn: ``turns.csv`` of a run, written before they are.

What was asked may have been answered, whatever became of the server, the round or the reply. So a
run that is resumed goes on with this count, and not with that of its checkpoint.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HEADER = "round,client\n"


class Turns:
    """The turns that a run has asked for.

    Parameters
    ----------
    path : Path
        It is made, or gone on with; a line that was cut off is taken away: what was written after
        it was not sent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1] or HEADER
        if whole != text:
            path.write_text(whole)
        self.asked = [
            (int(number), int(client))
            for number, client in (line.split(",") for line in whole.splitlines()[1:])
        ]

    def add(self, server_round: int, clients: Iterable[int]) -> None:
        """Write that ``clients`` are asked; it is on disk when this returns."""
        new = [(server_round, client) for client in clients]
        with self.path.open("a") as file:
            file.write("".join(f"{number},{client}\n" for number, client in new))
            file.flush()
            os.fsync(file.fileno())
        self.asked += new

    def count(self) -> Counter[int]:
        """Return how often each client was asked."""
        return Counter(client for _, client in self.asked)

    @property
    def last(self) -> int:
        """The last round that clients were asked in, 0 for none."""
        return max((number for number, _ in self.asked), default=0)
