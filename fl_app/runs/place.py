"""Where the results of a run go, before there are any."""

from pathlib import Path

from omegaconf import DictConfig

from fl_app.files import project_root


def folder_of(cfg: DictConfig) -> Path | None:
    """Return the folder of a run; None if its name is chosen only when it starts."""
    if cfg.resume is not None:
        return project_root() / str(cfg.resume)
    name = cfg.output.name
    return None if name is None else project_root() / cfg.output.dir / str(name)


def check_free(cfg: DictConfig) -> None:
    """Check that a new run finds no folder of its name.

    Raises
    ------
    FileExistsError
        If there is one.
    """
    path = folder_of(cfg)
    if cfg.resume is None and path is not None and path.exists():
        raise FileExistsError(f"{path} exists: choose another output.name, or remove the folder")
