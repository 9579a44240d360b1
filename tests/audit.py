"""Watch what code does to the machine, by Python's audit hook."""

import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fl_app.config import CONF_DIR

PROJECT = CONF_DIR.parent
INSTALLED = (
    *(path for path in sys.path if path.endswith(".zip")), *site.getsitepackages(),
    sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
)  # fmt: skip
# The last one is made by an editable install: it says where the project is installed.
OURS = tuple(PROJECT / name for name in ("fl_app", "conf", "strategies", "thinwire.egg-info"))
MAY_READ = tuple(str(Path(path).resolve()) for path in (*INSTALLED, *OURS))
# Files that the platform itself reads in any case.
PLATFORM = ("/proc/cpuinfo", "/sys/devices/system/")
FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "pickle.find_class", "urllib.", "ftplib.", "http.client", "shutil.", "os.remove", "os.rename",
    "os.mkdir", "os.chmod", "ctypes.dlopen", "code.__new__", "webbrowser.", "sqlite3.",
)  # fmt: skip


def _is_below(path: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in MAY_READ) or (
        path.startswith(PLATFORM)
    )


@dataclass
class Watch:
    """The forbidden events of one thread.

    Attributes
    ----------
    thread : int
        The thread that is watched.
    seen : list of str
        Forbidden events: files opened outside of the project and of Python, network, processes,
        imports of strategies.
    """

    thread: int = field(default_factory=threading.get_ident)
    seen: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Record an audit event if it is forbidden."""
        if threading.get_ident() != self.thread:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            mode, flags = arguments[1], arguments[2]
            writes = any(letter in str(mode) for letter in "wax+") or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes or not _is_below(path):
                self.seen.append(f"open {path} {mode}")
        elif event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "import" and str(arguments[0]).partition(".")[0] == "strategies":
            self.seen.append(f"import {arguments[0]}")


_WATCHES: list[Watch] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    for watch in _WATCHES:
        watch.hear(event, arguments)


sys.addaudithook(_hear)  # a hook cannot be removed


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch this thread within the block."""
    watch = Watch()
    _WATCHES.append(watch)
    try:
        yield watch
    finally:
        _WATCHES.remove(watch)
