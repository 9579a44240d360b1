"""Where rows are: the files behind a path, by split, and their format.

A path of this machine is a literal path. ``datasets`` takes the name of a folder for a pattern, so
that it sees the folder by another name, and never sees the name of a single file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fl_app.data.readers import SAMPLE_BY
from fl_app.faults import FaultError

if TYPE_CHECKING:  # a start looks at the first rows of a file without the library
    from datasets import DatasetBuilder, Features

TEXT = "text"
PARAGRAPH = "paragraph"  # what a row of plain text is, where nothing else is said
SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": TEXT,
}
FORMATS = ("arrow", "csv", "json", "parquet", TEXT)  # formats that hold only data
SPLITS_FILE, STATE_FILE = "dataset_dict.json", "state.json"  # that save_to_disk writes
SAVED = "saved"  # the format of save_to_disk, which is memory-mapped as it is
DESCRIPTIONS = ("config.json", "dataset_info.json", "dataset_infos.json")  # of data sets
SEPARATORS = {",": "csv", "\t": "tsv"}
OUTSIDE = "its README.md names files that are not in it"


@dataclass(frozen=True)
class Source:
    """The files of a source.

    Attributes
    ----------
    reader : str
        A key of ``fl_app.data.readers.READERS``, or ``SAVED``.
    files : dict of str to list of str
        The files of each split, in order.
    declared : Features or None
        The types that the data set's own README.md declares.
    """

    reader: str
    files: dict[str, list[str]]
    declared: Features | None = None


@contextmanager
def readable(option: str, path: str) -> Iterator[None]:
    """Turn an error about a source into one that names the option.

    Raises
    ------
    FileNotFoundError
        If there are no files, or the hub cannot be reached.
    FaultError
        If a file cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{option}={path!r} contains no data files, or is a data set of the hub that cannot "
            f"be reached from here: download it and set {option} to its folder ({error})"
        ) from error
    except (pa.ArrowException, KeyError, OverflowError, RuntimeError, ValueError) as error:
        said = str(error)
        whole = (
            said if said.startswith(f"{option}=") else f"{option}={path!r} cannot be read: {said}"
        )
        raise FaultError("rows", whole) from error


def find(option: str, path: str, name: str | None = None, sample_by: str = PARAGRAPH) -> Source:
    """Return the files of a source.

    Parameters
    ----------
    option : str
        The option that has set ``path``, for messages.
    path : str
        The absolute path of a file or folder, or the id of a data set of the hub.
    name : str or None
        The configuration of a data set that has several.
    sample_by : str
        What a row of plain text is: line, paragraph or document.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no files of rows, or they are of a format that is not supported.
    """
    found = _found(option, path, name)
    return replace(found, reader=sample_by) if found.reader == TEXT else found


def _found(option: str, path: str, name: str | None) -> Source:
    place = Path(path)
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise ValueError(f"{option}={path!r} should end in {', '.join(SUFFIXES)}")
        return Source(SUFFIXES[place.suffix], {"train": [path]})
    if (place / SPLITS_FILE).is_file() or (place / STATE_FILE).is_file():
        return Source(SAVED, _saved(place))
    from datasets import load_dataset_builder

    if not place.is_absolute():
        return _on_hub(option, path, load_dataset_builder(path, name))
    with _by_another_name(place) as folder:
        try:
            builder = load_dataset_builder(str(folder), name, cache_dir=str(folder.parent))
        except FileNotFoundError as error:
            if (place / "README.md").is_file():
                raise ValueError(f"there are no files of rows, or {OUTSIDE} ({error})") from None
            raise
        reader = _reader(option, path, builder)
        files = {
            split: [str(place / _inside(str(file), folder)) for file in found]
            for split, found in _data_files(builder).items()
        }
    return Source(reader, files, builder.info.features)


def is_local(path: str) -> bool:
    """Tell whether a path is of this machine; else it is the id of a data set of the hub."""
    return Path(path).is_absolute()


def unread(path: str, found: Source) -> list[str]:
    """Return the files of rows in a folder that belong to no split, relative to it.

    A folder is read in one format, and where some names tell a split, the others do not count.
    """
    if found.reader == SAVED or not Path(path).is_dir():
        return []
    known = {file for files in found.files.values() for file in files}
    # A text beside a table is a note about it.
    rows = {one for one in SUFFIXES if SUFFIXES[one] != TEXT or found.reader in SAMPLE_BY}
    places = (one.relative_to(path) for one in sorted(Path(path).rglob("*")) if one.is_file())
    return [
        str(one)
        for one in places
        if one.suffix in rows
        and str(Path(path) / one) not in known
        and not any(part.startswith((".", "__")) for part in one.parts)
        and one.name not in DESCRIPTIONS
    ]


def _saved(folder: Path) -> dict[str, list[str]]:
    """Return the files that ``save_to_disk`` has noted, by split."""
    if (folder / SPLITS_FILE).is_file():
        splits = json.loads((folder / SPLITS_FILE).read_text())["splits"]
        places = {str(split): folder / Path(split).name for split in splits}
    else:
        places = {"train": folder}
    found = {}
    for split, place in places.items():
        noted = json.loads((place / STATE_FILE).read_text())["_data_files"]
        found[split] = [str(place / Path(file["filename"]).name) for file in noted]
    return found


def _on_hub(option: str, path: str, builder: DatasetBuilder) -> Source:
    from datasets.download import DownloadManager

    reader = _reader(option, path, builder)
    found = {}
    for split, files in _data_files(builder).items():
        for file in map(str, files):
            if not file.startswith(f"hf://datasets/{path}@"):
                raise ValueError(OUTSIDE)
        found[split] = [str(file) for file in files]
    manager = DownloadManager(dataset_name=builder.dataset_name, data_dir=builder.config.data_dir)
    here = manager.download_and_extract(found)
    local = {split: [*manager.iter_files(files)] for split, files in here.items()}
    return Source(reader, local, builder.info.features)


def _data_files(builder: DatasetBuilder) -> dict[str, Any]:
    return {str(split): files for split, files in (builder.config.data_files or {}).items()}


def _reader(option: str, path: str, builder: DatasetBuilder) -> str:
    """Return the reader of the format; ValueError if there is none, or of its options."""
    found = type(builder).__module__.rpartition(".")[2]
    if found not in FORMATS:
        raise ValueError(
            f"{option}={path!r} has the format {found}; supported are {', '.join(FORMATS)}: "
            "convert it"
        )
    config, usual = builder.config, type(builder.config)()
    own = {"name", "version", "data_dir", "data_files", "description", "features"}
    set_ = {f.name for f in fields(config) if getattr(config, f.name) != getattr(usual, f.name)}
    if found == "csv" and config.sep in SEPARATORS:
        found, set_ = SEPARATORS[config.sep], set_ - {"sep", "delimiter"}
    if set_ - own:
        raise ValueError(
            f"{option}={path!r}: its README.md sets {', '.join(sorted(set_ - own))}, which is not "
            "supported: convert it to parquet"
        )
    return found


@contextmanager
def _by_another_name(folder: Path) -> Iterator[Path]:
    """Make a copy of a folder out of links, under a name without any special character."""
    with tempfile.TemporaryDirectory(prefix="rows") as parent:
        copy = Path(parent).resolve() / "rows"
        for place, _, names in os.walk(folder):
            here = copy / Path(place).relative_to(folder)
            here.mkdir(parents=True)
            for name in names:
                (here / name).symlink_to(Path(place) / name)
        yield copy


def _inside(file: str, folder: Path) -> str:
    """Return the path of a file in ``folder``, relative to it; ValueError if it is elsewhere."""
    whole = os.path.abspath(file)  # noqa: PTH100  links stay as they are
    if not whole.startswith(f"{folder}/"):
        raise ValueError(OUTSIDE)
    return os.path.relpath(whole, folder)
