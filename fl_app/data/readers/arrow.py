"""Read Arrow's own files: streams, such as those of ``save_to_disk``, and random-access files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from fl_app.data.readers.columns import common, fitted
from fl_app.data.readers.opened import ROWS


def schema(files: Sequence[str], most: int | None = None) -> pa.Schema:
    """Return the columns of all files.

    Raises
    ------
    ValueError
        If a file is not of Arrow, or files have different types for a column.
    """
    found = []
    for file in files:
        with _read(file) as (known, _):
            found.append(known)
    return common(found)


def batches(files: Sequence[str], schema: pa.Schema, size: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows in the file's own batches; a column that a file lacks is no value (null)."""
    for file in files:
        with _read(file) as (_, parts):
            for batch in parts:
                batch.validate(full=True)  # a file of others may point beyond its own end
                yield fitted(batch, schema)


@contextmanager
def _read(file: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with pa.memory_map(file) as raw:
        try:
            stream = pa.ipc.open_stream(raw)
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(raw)
            yield table.schema, (table.get_batch(i) for i in range(table.num_record_batches))
        else:
            yield stream.schema, iter(stream)
