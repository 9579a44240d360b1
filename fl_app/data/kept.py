"""Rows of files as a memory-mapped data set: they are read once and kept in the cache.

The cache is that of ``datasets`` (``HF_DATASETS_CACHE``). A file that has changed is read again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, Json, LargeList, List, concatenate_datasets
from datasets.table import table_cast

from fl_app.data.readers import READERS
from fl_app.data.sources import SAVED

VERSION = 1  # of what is kept: another one reads all files again


def rows(reader: str, files: Sequence[str], declared: Features | None = None) -> Dataset:
    """Return the rows of files, without pictures and sounds.

    To decode a picture, ``datasets`` would open any file that a row names.

    Parameters
    ----------
    reader : str
        A key of ``READERS``, or ``SAVED``.
    files : sequence of str
        Absolute paths.
    declared : Features or None
        The columns' types, if the data set itself declares them.

    Raises
    ------
    OSError
        If a file cannot be read, or the cache cannot be written.
    ValueError
        If a file is damaged, or the files do not fit each other.
    """
    if reader == SAVED:
        return _without_media(concatenate_datasets([*map(Dataset.from_file, files)]))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "thinwire"
    place = folder / f"{_digest(reader, files, declared)}.arrow"
    if not place.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
        except OSError as error:
            raise OSError(
                f"the cache of rows cannot be written ({error}): set HF_DATASETS_CACHE to a "
                "folder that can"
            ) from None
        try:
            os.close(handle)
            _write(part, reader, files, declared)
            Path(part).replace(place)
        finally:
            Path(part).unlink(missing_ok=True)
    return Dataset.from_file(str(place))


def _write(place: str, reader: str, files: Sequence[str], declared: Features | None) -> None:
    read = READERS[reader]
    schema = read.schema(files)
    known = Features.from_arrow_schema(schema)
    if declared is not None and {*declared} == {*known}:
        known = Features({name: declared[name] for name in known})
    known = Features({name: kind for name, kind in known.items() if not _is_media(kind)})
    as_read = pa.schema([schema.field(name) for name in known])
    with pa.OSFile(place, "wb") as sink, pa.ipc.new_stream(sink, known.arrow_schema) as out:
        for batch in read.batches(files, as_read):
            if batch.schema.types == known.arrow_schema.types:
                table = pa.Table.from_arrays(batch.columns, schema=known.arrow_schema)
            else:
                table = table_cast(pa.Table.from_batches([batch]), known.arrow_schema)
            out.write_table(table)


def _without_media(found: Dataset) -> Dataset:
    media = [name for name, kind in found.features.items() if _is_media(kind)]
    return found.remove_columns(media) if media else found


def _is_media(kind: Any) -> bool:
    """Tell whether a column holds pictures, sounds or other things that are decoded from files."""
    if isinstance(kind, dict):
        return any(map(_is_media, kind.values()))
    if isinstance(kind, List | LargeList):
        return _is_media(kind.feature)
    return hasattr(kind, "decode_example") and not isinstance(kind, Json)


def _digest(reader: str, files: Sequence[str], declared: Features | None) -> str:
    """Return what a set of files is known by, as long as none of them changes."""
    found = [VERSION, reader, None if declared is None else declared.to_dict()]
    for file in files:
        at = os.stat(file)  # noqa: PTH116  a path is opened as it is
        found.append([file, at.st_ino, at.st_size, at.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
