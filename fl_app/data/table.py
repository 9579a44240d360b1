"""Rows of any table that Hugging Face's ``datasets`` reads, with our names for its columns.

A source is a CSV, JSON, JSON Lines or Parquet file, a folder of such files, a folder written by
``save_to_disk``, or a data set of the hub in one of these formats. No source can bring code:
``datasets`` runs no scripts since version 4, other formats are refused, and nothing is unpickled.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    ReadInstruction,
    Value,
    load_dataset_builder,
    load_from_disk,
    packaged_modules,
)
from datasets.exceptions import DatasetGenerationError
from datasets.features.features import require_decoding
from omegaconf import DictConfig

from fl_app.config import SPLITS, plain
from fl_app.faults import FaultError

REQUIRED = ("test",)
FILES = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
FORMATS = ("arrow", "csv", "json", "parquet")  # those that data alone can be in
ON_DISK = ("dataset_dict.json", "state.json")  # what save_to_disk writes
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """The splits ``train``, ``test`` and maybe ``unseen`` and ``public``; ``seed`` changes nothing.

    A column of class numbers with names becomes one of the names, null where it has none (-1).

    Args:
        cfg_data: for each split ``path`` (null: there is no such split; ``test`` must have one,
            ``train`` only where not every node brings its own), ``name`` (configuration of a data
            set that has several; a file has none), ``split`` (of the source, slices as in
            "train[:90%]"), ``columns`` (the source's name to ours; others keep theirs), ``drop``
            (a column, by our name, to the values whose rows are left out) and ``limit`` (the first
            rows that are kept; null: all).

    Raises:
        FileNotFoundError: no such file, folder or data set of the hub, or it cannot be reached.
        ValueError: it is in no format that is read, or cannot be read; no such split or column;
            or no row is left.
    """
    return DatasetDict(
        {
            split: rows(f"data.{split}", cfg_data[split], f"data.{split}.path")
            for split in SPLITS
            if split in REQUIRED or cfg_data[split].path is not None
        }
    )


def is_source(path: object) -> bool:
    """Whether ``path`` is an absolute path that exists, or may be the id of a data set."""
    if not isinstance(path, str):
        return False
    if Path(path).is_absolute():
        return is_source_name(path) and Path(path).exists()
    # `datasets` would rather take a folder of that name where the process happens to be.
    return is_source_name(path) and not Path(path).exists()


def is_source_name(path: object) -> bool:
    """Whether ``path`` reads as an absolute path or the id of a data set, wherever it is read.

    URLs and chains of them, which ``datasets`` would fetch, are neither, and so are the names of
    its own formats, for which it would read what lies where the process happens to be.
    """
    if not isinstance(path, str) or "::" in path or "://" in path or "\0" in path:
        return False
    if Path(path).is_absolute():
        return True
    formats = packaged_modules._PACKAGED_DATASETS_MODULES
    return HUB_ID.fullmatch(path) is not None and path not in formats


def rows(key: str, cfg: DictConfig, option: str) -> Dataset:
    """The rows of one split; errors name its ``key`` in the configuration, and ``option``, which
    has set ``cfg.path``.

    Raises:
        FileNotFoundError, ValueError: see ``load``.
    """
    if not is_source(cfg.path):
        raise FileNotFoundError(
            f"{option}={cfg.path!r} should be the absolute path of a file or folder that "
            "exists, or the id of a data set of the hub"
        )
    found = _split(key, cfg.split, source(option, cfg.path, cfg.name))
    found = _renamed(key, named(found), plain(cfg.columns))
    found = _without(key, found, plain(cfg.drop))
    if cfg.limit is not None:
        found = found.select(range(min(cfg.limit, len(found))))
    if not len(found):
        raise FaultError(
            "no_rows",
            f"{key} has no rows: {cfg.path!r}, split {cfg.split!r}, after {key}.drop={cfg.drop}",
        )
    return found


def source(option: str, path: str, name: str | None = None) -> DatasetDict:
    """All splits of a source, under its own names; errors name ``option``, which has set ``path``.

    Raises:
        FileNotFoundError, ValueError: see ``load``.
    """
    is_file = Path(path).is_file()
    if is_file and Path(path).suffix not in FILES:
        raise ValueError(f"{option}={path!r} should end in {', '.join(FILES)}")
    if is_file and not Path(path).read_bytes().strip():
        raise ValueError(f"{option}={path!r} is empty: it should hold rows")
    with _readable(option, path):
        if any((Path(path) / file).is_file() for file in ON_DISK):
            saved = load_from_disk(path)
            whole = saved if isinstance(saved, DatasetDict) else DatasetDict({"train": saved})
            return _without_media(whole)
        if is_file:
            builder = load_dataset_builder(FILES[Path(path).suffix], data_files=path)
        else:
            builder = load_dataset_builder(path, name)
            _check_inside(option, path, builder)
    file_format = type(builder).__module__.rpartition(".")[2]
    if file_format not in FORMATS:
        raise ValueError(
            f"{option}={path!r} is of the format {file_format}; read are {', '.join(FORMATS)}: "
            "convert it"
        )
    with _readable(option, path):
        builder.download_and_prepare()
        return _without_media(builder.as_dataset())


def _check_inside(option: str, path: str, builder: DatasetBuilder) -> None:
    """Refuse a source whose own metadata (README.md) name files that are not in it."""
    local = Path(path).is_absolute()
    inside = (f"{Path(path)}/", f"{Path(path).resolve()}/") if local else f"hf://datasets/{path}@"
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not (os.path.abspath(file) if local else file).startswith(inside):  # noqa: PTH100
                raise ValueError("its README.md names files that are not in it")


def _without_media(found: DatasetDict) -> DatasetDict:
    """Leave out pictures and sounds: to decode one, ``datasets`` opens whatever a row names."""
    for name, rows in found.items():
        media = [column for column, kind in rows.features.items() if require_decoding(kind)]
        found[name] = rows.remove_columns(media) if media else rows
    return found


@contextmanager
def _readable(option: str, path: str) -> Iterator[None]:
    """Turns the errors of ``datasets`` about a source into one that names the option."""
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{option}={path!r} holds no data files, or is a data set of the hub that cannot "
            f"be reached from here: download it and set {option} to its folder ({error})"
        ) from error
    except (DatasetGenerationError, RuntimeError, ValueError) as error:
        raise ValueError(f"{option}={path!r} cannot be read: {error.__cause__ or error}") from error


def _split(key: str, wanted: str, found: DatasetDict) -> Dataset:
    try:
        (chosen,) = ReadInstruction.from_spec(wanted).to_absolute(
            {name: len(rows) for name, rows in found.items()}
        )
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{key}.split={wanted!r} should be one of {', '.join(found)}, or a part of it such as "
            f"{next(iter(found))}[:90%] ({error})"
        ) from None
    rows = found[chosen.splitname]
    return rows.select(range(chosen.from_ or 0, len(rows) if chosen.to is None else chosen.to))


def named(rows: Dataset) -> Dataset:
    """Rows with the names of classes in the place of their numbers."""
    for column, feature in rows.features.items():
        if isinstance(feature, ClassLabel) and feature.names:
            numbers = rows[column][:]
            names = [
                feature.names[n] if n is not None and 0 <= n < len(feature.names) else None
                for n in numbers
            ]
            rows = rows.remove_columns(column).add_column(column, names, feature=Value("string"))
    return rows


def _renamed(key: str, rows: Dataset, columns: Mapping[str, str]) -> Dataset:
    _known(f"{key}.columns", rows, columns)
    names = [columns.get(column, column) for column in rows.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{key}.columns={dict(columns)} makes two columns {', '.join(twice)} of "
            f"{', '.join(rows.column_names)}: give the other one another name there too"
        )
    return rows.rename_columns(dict(columns)) if columns else rows


def _without(key: str, rows: Dataset, drop: Mapping[str, list[object]]) -> Dataset:
    _known(f"{key}.drop", rows, drop)
    for column, values in drop.items():
        unwanted = values if isinstance(values, list) else [values]
        kept = [i for i, value in enumerate(rows[column][:]) if value not in unwanted]
        rows = rows.select(kept)
    return rows


def _known(key: str, rows: Dataset, columns: Mapping[str, object]) -> None:
    unknown = sorted({*columns} - {*rows.column_names})
    if unknown:
        raise FaultError(
            "columns",
            f"{key} names {', '.join(unknown)}; the columns are {', '.join(rows.column_names)}",
            missing=", ".join(unknown),
        )
