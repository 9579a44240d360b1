"""Who may read what a run, a node or a script has left."""

import stat
from pathlib import Path


def of(path: Path) -> int:
    """Return the mode of a file or folder."""
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> dict[str, str]:
    """Return what group or others may read, write or search, in and below ``folder``."""
    return {
        str(path): oct(of(path))
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and not path.is_socket() and of(path) & 0o077
    }
