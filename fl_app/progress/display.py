"""The live display of a run on a terminal: its phase, and the turns of its clients."""

import json
import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fl_app.progress.events import PIPE

ROWS = 8  # clients that are shown at once
PER_SECOND = 4  # pictures
LOOK_SECONDS = 0.2  # within which the reader sees that the display is over
BAR = 20  # columns
READ = 2**16
TURN = {"client", "step", "steps", "loss", "left"}  # keys of an event of a turn


class Picture:
    """The state of a run, as its events say it.

    Attributes
    ----------
    phase : str
        What the run does now.
    traffic : str
        Bytes sent so far.
    turns : dict of int to dict
        Client to its last event, in the order of their first one.
    """

    def __init__(self) -> None:
        self.phase, self.traffic = "starting", ""
        self.turns: dict[int, dict[str, Any]] = {}
        self._names: dict[str, str] = {}
        self._began = time.monotonic()
        self._spinner = Spinner("line")

    def take(self, event: dict[str, Any]) -> None:
        """Change the state by an event, see ``fl_app.progress.events``."""
        if "phase" in event:
            self.phase, self._began = event["phase"], time.monotonic()
            self.turns = {}
        self.traffic = event.get("traffic", self.traffic)
        self._names |= event.get("clients", {})
        if "replied" in event:
            self.turns.pop(event["replied"], None)
        if event.keys() >= TURN:
            self.turns[event["client"]] = event

    def __rich__(self) -> Group:
        """Return the lines of the display, none of which is wrapped."""
        now = f"{self.phase} ({time.monotonic() - self._began:.0f} s)"
        head = Table.grid(padding=(0, 1))
        head.add_row(self._spinner, _line("; ".join(filter(None, (now, self.traffic)))))
        shown = [*self.turns.values()][:ROWS]
        turns = Table.grid(padding=(0, 2))  # on a narrow terminal, the bar gives way first
        turns.add_column(no_wrap=True)
        for text, turn in zip(_aligned([*map(self._cells, shown)]), shown, strict=True):
            turns.add_row(_line(f"  {text}"), ProgressBar(turn["steps"], turn["step"], width=BAR))
        more = len(self.turns) - ROWS
        return Group(head, turns, *([_line(f"  and {more} more")] if more > 0 else []))

    def _cells(self, turn: dict[str, Any]) -> tuple[str, ...]:
        name = self._names.get(str(turn["client"]), turn["client"])
        loss = "" if turn["loss"] is None else f"loss {turn['loss']:.4f}"
        steps, left = f"step {turn['step']} of {turn['steps']}", f"{turn['left']:.0f} s left"
        return f"client {name}", *filter(None, (steps, loss, left))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(set_cell_size, row, widths)) for row in rows]


def _line(text: str) -> Text:
    # Cropped, because not every terminal has the character of an ellipsis.
    return Text(text, no_wrap=True, overflow="crop")


def is_possible() -> bool:
    """Tell whether standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and Console().is_interactive


@contextmanager
def display() -> Iterator[None]:
    """Draw what the run of this process does, if standard output is a terminal.

    Other output goes above it. Child processes that are started in the block send their events
    here. At the end, also by an exception, nothing of it is left on the terminal.
    """
    if not is_possible():
        yield
        return
    picture, over = Picture(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="thinwire-") as folder, _pipe(Path(folder)) as pipe:
        live = Live(
            picture,
            console=Console(soft_wrap=True),  # a long line stays one, as a path to copy
            refresh_per_second=PER_SECOND,
            transient=True,
            vertical_overflow="crop",
            redirect_stderr=sys.stderr.isatty(),
        )
        reader = threading.Thread(target=_follow, args=(pipe, picture, over), daemon=True)
        with live:
            reader.start()
            try:
                yield
            finally:
                over.set()
                reader.join()


@contextmanager
def _pipe(folder: Path) -> Iterator[int]:
    """Make the pipe of events and name it in the environment; yield its descriptor."""
    path = folder / "events"
    os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # with a writer, it never ends
    os.environ[PIPE] = str(path)
    try:
        yield pipe
    finally:
        del os.environ[PIPE]
        os.close(pipe)


def _follow(pipe: int, picture: Picture, over: threading.Event) -> None:
    rest = b""
    while not over.is_set():
        if not select.select([pipe], [], [], LOOK_SECONDS)[0]:
            continue
        with suppress(BlockingIOError):
            *lines, rest = (rest + os.read(pipe, READ)).split(b"\n")
            for line in lines:
                with suppress(ValueError, TypeError):  # no event: the next one may be one
                    picture.take(dict(json.loads(line)))
