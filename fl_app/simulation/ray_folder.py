"""A private folder for Ray, whose path leaves room for the names of its Unix sockets."""

import os
import sys
import tempfile
from contextlib import suppress

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path of a Unix socket
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest
PREFIX = "tw-"
MOST = SOCKET_BYTES - len(SOCKET) - len(f"/{PREFIX}12345678")  # bytes of the folder above


def ray_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder with mode 0700, which is removed at the end of a ``with`` block.

    Raises
    ------
    OSError
        If no folder for temporary files is short enough and can be written.
    """
    places = ["/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"]
    with suppress(FileNotFoundError):
        places.insert(0, tempfile.gettempdir())
    for place in filter(None, dict.fromkeys(places)):
        if len(os.fsencode(os.path.realpath(place))) <= MOST:
            with suppress(OSError):
                return tempfile.TemporaryDirectory(
                    prefix=PREFIX, dir=place, ignore_cleanup_errors=True
                )
    raise OSError(
        f"Ray needs a folder for temporary files whose path has at most {MOST} bytes, and none of "
        f"{', '.join(filter(None, dict.fromkeys(places)))} is one that can be written: set TMPDIR"
    )
