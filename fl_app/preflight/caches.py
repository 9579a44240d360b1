"""Whether the cache of rows can be written: a home that is missing is no fault of the data."""

import os
from pathlib import Path

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.files import existing

READ = ("pfl_docvqa", "table")  # data sets whose rows are kept in the cache once they are read


def check(cfg: DictConfig) -> None:
    """Check the folder that ``datasets`` keeps rows in, without importing it or writing there.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    if cfg.data.id not in READ:
        return
    folder = rows_cache()
    there = existing(folder.absolute())
    if not folder.is_absolute() or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the cache of rows, {folder}, cannot be written (HOME={os.environ.get('HOME')}): set "
            "HF_DATASETS_CACHE, or HOME, to a folder that can"
        )


def rows_cache() -> Path:
    """Return the folder as ``datasets`` chooses it; relative where the user has no home."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_DATASETS_CACHE", f"{home}/datasets")))  # noqa: PTH111
