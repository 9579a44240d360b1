"""Where the results of a run go, before there are any."""

import os
from pathlib import Path

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.files import existing, project_root


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
