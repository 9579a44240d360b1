"""Whether the processes that a run needs are still there, and what one that has ended said last.

The launcher watches SuperLink and SuperExec, the SuperExec watches Ray's own processes and the
run's simulation (``ray_workers``).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from fl_app.simulation.processes import descendants, is_alive

HELPERS = "THINWIRE_HELPERS"  # environment variable: NAME:PID:STARTED of each
EVERY = 1.0  # seconds between two looks
TAIL, LONGEST = 12, 300  # lines of a log that are shown, and characters of one
STATISTICS = "[state-dump]"  # Ray writes hundreds of such lines
NOTE = "ended"  # file of FLWR_HOME: which of Ray's processes has ended, as `note` writes it
AGENTS = {"ray::DashboardAgent": "dashboard_agent", "ray::RuntimeEnvAgent": "runtime_env_agent"}


def named(pids: Mapping[str, int]) -> str:
    """Return helpers as the value of ``HELPERS``."""
    return " ".join(
        f"{name}:{pid}:{psutil.Process(pid).create_time()}" for name, pid in pids.items()
    )


def ended(environment: Mapping[str, str]) -> str | None:
    """Return which helper has ended, with the end of its log; None while all are there.

    Parameters
    ----------
    environment : mapping
        That of the SuperLink.
    """
    if HELPERS not in environment:
        return None
    home = Path(environment["FLWR_HOME"])
    if (home / NOTE).exists():  # what ends after it, and because of it, is not to blame
        return (home / NOTE).read_text()
    for word in environment[HELPERS].split():
        name, pid, started = word.split(":")
        if not _is_running(int(pid), float(started)):
            last = tail(home / f"{name.lower()}.log") or "(it is empty)"
            return f"{name} has ended, and the run with it. The end of its log:\n{last}"
    return None


def note(said: str) -> None:
    """Leave word for `ended`, before this process ends, which can take Ray a while."""
    part = Path(os.environ["FLWR_HOME"], f"{NOTE}.part")
    with suppress(OSError):  # then its log says so, when it has ended
        part.write_text(said)
        part.rename(part.with_suffix(""))


def tail(log: Path) -> str:
    """Return the end of a log; "" if there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line[:LONGEST] for line in lines if line.strip() and STATISTICS not in line]
    last = said[-TAIL:]
    if all(line[0].isspace() for line in last):  # a quotation, such as Ray's of another log
        last[:1] = [line for line in said if not line[0].isspace()][-1:]
    return "\n".join(last)


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and is_alive(process)
    except psutil.NoSuchProcess:
        return False


# ---- Ray's -----------------------------------------------------------------------------------


class RayHelpers:
    """Ray's own processes, which last as long as this process; workers and actors come and go."""

    def __init__(self) -> None:
        self.seen: dict[psutil.Process, str] = {}

    def ended(self) -> str | None:
        """Return which one has ended, with the end of its log; None while all are there."""
        self.seen |= {process: name for process, name in _of_ray() if process not in self.seen}
        for process, name in self.seen.items():
            if not is_alive(process):
                last = "\n".join(tail(_ray_log(name)).splitlines()[1 - TAIL :])  # room for this
                return f"Ray's {name} has ended, and the run with it. The end of its log:\n{last}"
        return None


def _of_ray() -> Iterator[tuple[psutil.Process, str]]:
    for process in descendants(os.getpid()):
        with suppress(psutil.Error):
            if process.name() in ("raylet", "gcs_server"):
                yield process, process.name()
            elif name := AGENTS.get("".join(process.cmdline()[:1]).strip()):
                yield process, name


def _ray_log(name: str) -> Path:
    """Return the log of one of Ray's processes to which it has written last."""
    logs = Path(os.environ["RAY_TMPDIR"], "ray", "session_latest", "logs").glob(f"{name}*")
    with suppress(OSError, ValueError):
        return max((log for log in logs if log.stat().st_size), key=lambda log: log.stat().st_mtime)
    return Path(os.devnull)
