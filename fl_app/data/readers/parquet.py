"""Read Parquet: the file says the types. Words that it stores as numbers of a dictionary are words.

What ``datasets`` has noted in a file's metadata, such as the names of classes, stays.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from fl_app.data.readers.columns import common, fitted
from fl_app.data.readers.opened import ROWS


def schema(files: Sequence[str], most: int | None = None) -> pa.Schema:
    """Return the columns of all files.

    Raises
    ------
    ValueError
        If a file is not Parquet, or files have different types for a column.
    """
    found = []
    for file in files:
        with pa.OSFile(file) as raw:
            found.append(pq.read_schema(raw))
    return common(found)


def batches(files: Sequence[str], schema: pa.Schema, size: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows; a column that a file lacks is no value (null)."""
    for file in files:
        with pa.OSFile(file) as raw, pq.ParquetFile(raw) as table:
            known, wanted = table.schema_arrow.names, {*schema.names}
            # None: a name with a dot would be taken for a part of a mapping.
            columns = None if {*known} <= wanted else [name for name in known if name in wanted]
            for batch in table.iter_batches(batch_size=size, columns=columns):
                yield fitted(batch, schema)
