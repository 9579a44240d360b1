"""Processes of this machine, and what asks this one to end."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Say so at once, since it takes a while; a second Ctrl-C changes nothing."""
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    with suppress(OSError):  # a closed terminal takes no text
        print("stopping; this takes up to a minute", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Let ``handler`` answer what asks this process to end; under nohup a hang-up does not."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [ending for ending in ENDINGS if not (nohup and ending is signal.SIGHUP)]
    before = {ending: signal.signal(ending, handler) for ending in heard}
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
    """Tell whether a process is there and has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
