"""Where the results of a run go, and what tells others nothing of that place."""

import os
import re
from pathlib import Path

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.files import existing, project_root

SWEEP = "multirun.yaml"  # Hydra's record of a sweep, in the folder of its runs

# A path from the root of a file system; not an address, nor a fraction.
_ABSOLUTE = re.compile(r"(?<![\w.~:/)\]}-])/(?:[^/\s'\",;()\[\]{}]+/)*(?=[^/\s'\",;()\[\]{}])")


def folder_of(cfg: DictConfig) -> Path | None:
    """Return the folder of a run; None if its name is chosen only when it starts."""
    if cfg.resume is not None:
        return project_root() / str(cfg.resume)
    name = cfg.output.name
    return None if name is None else project_root() / cfg.output.dir / str(name)


def check_free(cfg: DictConfig) -> None:
    """Check that a run finds no folder of its name, and can write its own.

    Raises
    ------
    FileExistsError
        If there is one.
    ConfigError
        If its results cannot be written.
    """
    path = folder_of(cfg)
    if cfg.resume is None and path is not None and path.exists():
        raise FileExistsError(f"{path} exists: choose another output.name, or remove the folder")
    check_writable(path or project_root() / cfg.output.dir)


def check_writable(folder: Path) -> None:
    """Check that a folder of results can be written, or made.

    Raises
    ------
    ConfigError
        If not; the message names the folder that forbids it.
    """
    there = existing(folder)
    if not there.is_dir():
        why = f"{there} is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} cannot be written by this user, or at all"
    else:
        return
    raise ConfigError(f"results cannot go to {folder}: {why}; choose another output.dir")


def relative(path: Path, base: Path) -> str:
    """Return a path as seen from the folder ``base``."""
    return os.path.relpath(path.absolute(), base.absolute())


def without_places(text: str) -> str:
    """Return a text in which paths from the root keep only their last name: ``.../rows.csv``.

    A page or table may be passed on, and others have no use for the folders of this machine.
    """
    return _ABSOLUTE.sub(".../", text)
