"""What a piece of code does to the machine, told by Python's audit hook."""

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
# The last is what an editable install leaves beside the code: where the project is installed.
OURS = tuple(PROJECT / name for name in ("fl_app", "conf", "strategies", "thinwire.egg-info"))
MAY_READ = tuple(str(Path(path).resolve()) for path in (*INSTALLED, *OURS))
# Read by the platform itself, whatever is asked.
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
    """What was seen that may not be, of the thread that watches."""

    thread: int = field(default_factory=threading.get_ident)
    seen: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note an event of Python's."""
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


sys.addaudithook(_hear)  # there is no taking it off again


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch what this thread does within the block."""
    watch = Watch()
    _WATCHES.append(watch)
    try:
        yield watch
    finally:
        _WATCHES.remove(watch)
