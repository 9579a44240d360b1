"""Processes of this machine, and the signals that end this one."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

LOOK_SECONDS = 1.0
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, after a message, since stopping takes a while.

    Further signals are ignored.
    """
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    with suppress(OSError):  # the terminal may be closed
        print("stopping; this takes up to a minute", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Handle the signals of ``ENDINGS`` by ``handler``; under nohup, SIGHUP stays ignored."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [ending for ending in ENDINGS if not (nohup and ending is signal.SIGHUP)]
    before = {ending: signal.signal(ending, handler) for ending in handled}
    try:
        yield
    finally:
        for ending, former in before.items():
            signal.signal(ending, former)


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes that descend from ``pid``."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Family:
    """All processes that descend from some, also those that have lost their parent since.

    Parameters
    ----------
    processes : sequence of Popen
        Those whose descendants are looked for, until `members` is called; it may still grow.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.processes = processes
        self._seen: dict[psutil.Process, None] = {}
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def members(self) -> list[psutil.Process]:
        """Return all that have been seen; some may have ended."""
        self._over.set()
        self._look([process.pid for process in self.processes])
        self._look([process.pid for process in [*self._seen] if is_alive(process)])
        return [*self._seen]

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look([process.pid for process in self.processes])

    def _look(self, pids: Sequence[int]) -> None:
        for pid in pids:
            self._seen |= dict.fromkeys(descendants(pid))


def is_simulation(process: psutil.Process) -> bool:
    """Tell whether a process was forked by the SuperExec's fork server."""
    try:
        parent = process.parent()
        return parent is not None and any(
            "multiprocessing.forkserver" in word for word in parent.cmdline()
        )
    except psutil.NoSuchProcess:
        return False


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process exists and has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Wait until all have ended, ``seconds`` at most; tell whether they have.

    psutil's own wait asks the kernel for a handle, which fails where a process ends just then.
    """
    deadline = time.monotonic() + seconds
    while any(map(is_alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
