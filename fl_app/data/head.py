"""The first rows of a table's split: enough to know its columns, and read at once."""

from typing import Any, NamedTuple

import pyarrow as pa
from omegaconf import DictConfig

from fl_app.config import plain
from fl_app.data import sources
from fl_app.data.columns import check_known, new_names
from fl_app.data.kinds import kind_of_type
from fl_app.data.readers import READERS

MOST = 100  # rows of a file
FILES = 3  # of a split


class Head(NamedTuple):
    """The first rows of a split.

    Attributes
    ----------
    names : dict of str to str
        The source's name of each column -> its name in the run.
    schema : Schema
        The columns, by their names in the run. The types of JSON are those of the first rows.
    rows : list of dict
        The first rows, by the source's names.
    has_header : bool
        Whether the file itself lists its columns; JSON does not.
    unread : list of str
        Files of rows in the same folder that belong to no split.
    """

    names: dict[str, str]
    schema: pa.Schema
    rows: list[dict[str, Any]]
    has_header: bool
    unread: list[str]


def head(key: str, cfg: DictConfig) -> Head | None:
    """Return the first rows of a split; None for a data set of the hub.

    Parameters
    ----------
    key : str
        The split's key in the configuration, such as ``data.train``.
    cfg : DictConfig
        Its options, see ``fl_app.data.table.load``.

    Raises
    ------
    FileNotFoundError, ValueError
        If they cannot be read, or a split or column does not exist.
    """
    if not sources.is_local(cfg.path):
        return None
    with sources.readable(f"{key}.path", cfg.path):
        found = sources.find(f"{key}.path", cfg.path, cfg.name)
        split = str(cfg.split).partition("[")[0]
        if split not in found.files:
            return None  # reading it says which splits there are
        files = found.files[split][:FILES]
        read = READERS["arrow" if found.reader == sources.SAVED else found.reader]
        schema = read.schema(files, MOST)
        first = next(iter(read.batches(files[:1], schema, MOST)), None)
    names = new_names(key, schema.names, plain(cfg.columns))
    check_known(f"{key}.drop", names, cfg.drop)
    fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
    return Head(
        dict(zip(schema.names, names, strict=True)),
        pa.schema(fields),
        [] if first is None else _plain(first.slice(0, MOST)).to_pylist(),
        found.reader != "json",
        sources.unread(cfg.path, found),
    )


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Leave out columns that no prompt is made of, such as pictures."""
    kinds = {field.name: kind_of_type(field.type) for field in batch.schema}
    return batch.select([name for name, kind in kinds.items() if kind not in ("bytes", "mappings")])
