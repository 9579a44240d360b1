"""Readers of files with rows. A value is what the file says: no type is guessed from a text.

Each format has a module with two functions. ``schema(files, most)`` returns the columns of the rows
of all files together, from the first ``most`` rows of each (None: from all). ``batches(files,
schema, size)`` yields the rows in order as record batches of that schema. A path is opened as it
is: none of its characters is a pattern, and nothing in it names a protocol.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from fl_app.data.readers import arrow, objects, parquet
from fl_app.data.readers.cells import Cells
from fl_app.data.readers.opened import ROWS
from fl_app.data.readers.plain_texts import PlainTexts


class Reader(Protocol):
    """See the package."""

    def schema(self, files: Sequence[str], most: int | None = None) -> pa.Schema:
        """Return the columns."""

    def batches(
        self, files: Sequence[str], schema: pa.Schema, size: int = ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows, ``size`` at a time."""


SAMPLE_BY = ("line", "paragraph", "document")  # of plain text, a reader each
READERS: dict[str, Reader] = {
    "arrow": arrow,
    "csv": Cells(","),
    "json": objects,
    "parquet": parquet,
    "tsv": Cells("\t"),
    **{one: PlainTexts(one) for one in SAMPLE_BY},
}
