"""Modes of the files that a run, a node or a script has written."""

import stat
from pathlib import Path


def of(path: Path) -> int:
    """Return the mode of a file or folder."""
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> dict[str, str]:
    """Return the files and folders, from ``folder`` down, that group or others may access.

    Each path is mapped to its mode.
    """
    return {
        str(path): oct(of(path))
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and not path.is_socket() and of(path) & 0o077
    }
