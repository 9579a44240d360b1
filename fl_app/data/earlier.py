"""Whether the rows of an earlier run would be read otherwise today.

Before ``data.formats`` came, ``datasets`` guessed types of CSV and JSON: 007 was 7, NA nothing, and
a text like 2021-03-01 a time.
"""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from datasets import Dataset, load_dataset_builder
from omegaconf import DictConfig

from fl_app.config import SPLITS, plain
from fl_app.data import kept, sources

PATTERN = ("*", "?", "[", "]", "::")  # what it took for a pattern, or for a chain of places


def difference(cfg_data: DictConfig, columns: Collection[str], label: str | None) -> str | None:
    """Return what is read otherwise in the tables of a configuration, or None.

    Parameters
    ----------
    cfg_data : DictConfig
        The ``data`` group of a table.
    columns : collection of str
        The columns that the run uses.
    label : str or None
        One of them whose numbers are not the same as their texts.
    """
    for split in SPLITS:
        cfg = cfg_data.get(split)  # an earlier version's has no split source
        if cfg is None or cfg.path is None or not sources.is_local(cfg.path):
            continue
        with sources.readable(f"data.{split}.path", cfg.path):
            found = sources.find(f"data.{split}.path", cfg.path, cfg.name)
        files = found.files.get(str(cfg.split).partition("[")[0], [])
        if found.reader not in ("csv", "json") or not files:
            continue
        if any(mark in cfg.path for mark in PATTERN):
            return f"data.{split}.path={cfg.path!r} was a pattern, and is now a path"
        now = kept.rows(found.reader, files, found.declared)
        then = _as_before(found.reader, files)
        names = {old: plain(cfg.columns).get(old, old) for old in now.column_names}
        for old, name in names.items():
            if name in columns and (at := _differs(then, now, old, name == label)) is not None:
                return f"row {at + 1} of data.{split} has another value in the column {old!r}"
    return None


def both(path: str) -> Iterator[tuple[Dataset, Dataset]]:
    """Yield the rows of each split of CSV and JSON as they are read, and as they were, in order.

    Parameters
    ----------
    path : str
        The absolute path of a file or folder.
    """
    found = sources.find("the path", path)
    for files in found.files.values() if found.reader in ("csv", "json") else ():
        now, then = kept.rows(found.reader, files, found.declared), _as_before(found.reader, files)
        if then is not None and len(then) == len(now):
            yield now, then


def _as_before(reader: str, files: Sequence[str]) -> Dataset | None:
    """Return the rows as they were read; None if that fails."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = load_dataset_builder(reader, data_files=[*files], cache_dir=cache)
            builder.download_and_prepare()
            return builder.as_dataset(split="train", in_memory=True)
        except Exception:  # of many libraries: then there was no such run
            return None


def _differs(then: Dataset | None, now: Dataset, column: str, strictly: bool) -> int | None:
    """Return the first row whose value is another one, or None."""
    if then is None or column not in then.column_names or len(then) != len(now):
        return 0
    for index, (one, other) in enumerate(zip(then[column][:], now[column][:], strict=True)):
        if one != other and (strictly or _text(one) != _text(other)):
            return index
    return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
