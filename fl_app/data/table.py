"""Load rows of any table that Hugging Face's ``datasets`` reads, and rename its columns.

A source is a CSV, JSON, JSON Lines or Parquet file, a folder of such files, a folder written by
``save_to_disk``, or a data set of the hub in one of these formats. A source cannot bring code:
``datasets`` runs no scripts since version 4, other formats are refused, and nothing is unpickled.
"""

import os
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
)
from datasets.exceptions import DatasetGenerationError
from datasets.features.features import require_decoding
from omegaconf import DictConfig

from fl_app.config import SPLITS, plain
from fl_app.data.paths import is_source
from fl_app.data.random_streams import generator
from fl_app.faults import FaultError

REQUIRED = ("test",)
VALIDATION = 20  # separates the draw of validation rows from other uses of data.seed
FILES = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
FORMATS = ("arrow", "csv", "json", "parquet")  # formats that hold only data
ON_DISK = ("dataset_dict.json", "state.json")  # files that save_to_disk writes


def load(cfg_data: DictConfig, seed: int) -> DatasetDict:
    """Load the splits ``test`` and, if they are configured, the others of ``SPLITS``.

    A column of class numbers becomes a column of their names, null for a number without one (-1).

    With ``validation.share`` that share of the train rows is ``validation`` instead. The rows are
    drawn by ``cfg_data.seed`` alone, so that every machine leaves the same rows out of ``train``; a
    node with rows of its own keeps them all.

    Parameters
    ----------
    cfg_data : DictConfig
        For each split: ``path`` (null: no such split; ``test`` needs one, ``train`` unless every
        node has its own rows), ``name`` (the configuration of a data set that has several; null
        for a file), ``split`` (of the source, with slices such as "train[:90%]"), ``columns`` (the
        source's name -> the new name; others keep theirs), ``drop`` (a column, by its new name ->
        the values whose rows are left out) and ``limit`` (how many of the first rows are kept;
        null: all).
    seed : int
        Not used.

    Raises
    ------
    FileNotFoundError
        If a file, folder or data set of the hub does not exist or cannot be reached.
    ValueError
        If its format is not supported, it cannot be read, a split or column does not exist, or no
        row is left.
    """
    found = DatasetDict(
        {
            split: rows(f"data.{split}", cfg_data[split], f"data.{split}.path")
            for split in SPLITS
            if split in REQUIRED or cfg_data[split].path is not None
        }
    )
    if cfg_data.validation.share is not None:
        found["train"], found["validation"] = _shared(
            found["train"], cfg_data.validation.share, cfg_data.seed
        )
    return found


def _shared(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return what is left of the train rows, and the share that is drawn, both in their order.

    Raises
    ------
    FaultError
        If one of the two would be empty.
    """
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise FaultError(
            "no_rows",
            f"data.validation.share={share} of {len(train)} train rows leaves no row for "
            f"{'train' if count else 'validation'}",
        )
    drawn = generator(seed, VALIDATION).permutation(len(train))
    return train.select(sorted(drawn[count:])), train.select(sorted(drawn[:count]))


def rows(key: str, cfg: DictConfig, option: str) -> Dataset:
    """Return the rows of one split.

    Parameters
    ----------
    key : str
        The split's key in the configuration, for messages.
    cfg : DictConfig
        Its options, see ``load``.
    option : str
        The option that has set ``cfg.path``, for messages.

    Raises
    ------
    FileNotFoundError, ValueError
        See ``load``.
    """
    if not is_source(cfg.path):
        raise FileNotFoundError(
            f"{option}={cfg.path!r} should be the absolute path of a file or folder that "
            "exists, or the id of a data set of the hub"
        )
    found = _split(key, cfg.split, source(option, cfg.path, cfg.name))
    found = _renamed(key, with_class_names(found), plain(cfg.columns))
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
    """Return all splits of a source, under its own names.

    Parameters
    ----------
    option : str
        The option that has set ``path``, for messages.
    path, name : str
        See ``load``.

    Raises
    ------
    FileNotFoundError, ValueError
        See ``load``.
    """
    is_file = Path(path).is_file()
    if is_file and Path(path).suffix not in FILES:
        raise ValueError(f"{option}={path!r} should end in {', '.join(FILES)}")
    if is_file and not Path(path).read_bytes().strip():
        raise ValueError(f"{option}={path!r} is empty: it should contain rows")
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
            f"{option}={path!r} has the format {file_format}; supported are {', '.join(FORMATS)}: "
            "convert it"
        )
    with _readable(option, path):
        builder.download_and_prepare()
        return _without_media(builder.as_dataset())


def _check_inside(option: str, path: str, builder: DatasetBuilder) -> None:
    """Refuse a source whose own metadata (README.md) name files outside of it."""
    local = Path(path).is_absolute()
    inside = (f"{Path(path)}/", f"{Path(path).resolve()}/") if local else f"hf://datasets/{path}@"
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not (os.path.abspath(file) if local else file).startswith(inside):  # noqa: PTH100
                raise ValueError("its README.md names files that are not in it")


def _without_media(found: DatasetDict) -> DatasetDict:
    """Remove pictures and sounds: to decode one, ``datasets`` opens any file that a row names."""
    for name, rows in found.items():
        media = [column for column, kind in rows.features.items() if require_decoding(kind)]
        found[name] = rows.remove_columns(media) if media else rows
    return found


@contextmanager
def _readable(option: str, path: str) -> Iterator[None]:
    """Turn an error of ``datasets`` about a source into one that names the option."""
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{option}={path!r} contains no data files, or is a data set of the hub that cannot "
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


def with_class_names(rows: Dataset) -> Dataset:
    """Return rows with the names of classes instead of their numbers."""
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
    _check_known(f"{key}.columns", rows, columns)
    names = [columns.get(column, column) for column in rows.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{key}.columns={dict(columns)} makes two columns {', '.join(twice)} of "
            f"{', '.join(rows.column_names)}: give the other one another name there too"
        )
    return rows.rename_columns(dict(columns)) if columns else rows


def _without(key: str, rows: Dataset, drop: Mapping[str, list[object]]) -> Dataset:
    _check_known(f"{key}.drop", rows, drop)
    for column, values in drop.items():
        unwanted = values if isinstance(values, list) else [values]
        kept = [i for i, value in enumerate(rows[column][:]) if value not in unwanted]
        rows = rows.select(kept)
    return rows


def _check_known(key: str, rows: Dataset, columns: Mapping[str, object]) -> None:
    unknown = sorted({*columns} - {*rows.column_names})
    if unknown:
        raise FaultError(
            "columns",
            f"{key} names {', '.join(unknown)}; the columns are {', '.join(rows.column_names)}",
            missing=", ".join(unknown),
        )
