"""Read plain text: a row of the one column ``text`` is a line, a paragraph or a whole file.

The three are the ``sample_by`` of the text builder of ``datasets``. Paragraphs are divided by lines
that are blank. Line ends become ``\\n``; a row neither begins nor ends with a blank line, and a
text that is blank is no row.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from fl_app.data.readers.opened import ROWS, batched, opened

SCHEMA = pa.schema([("text", pa.string())])


class PlainTexts:
    """The reader of files in which a row is a ``sample_by``: line, paragraph or document."""

    def __init__(self, sample_by: str) -> None:
        self.sample_by = sample_by

    def schema(self, files: Sequence[str], most: int | None = None) -> pa.Schema:
        """Return the one column."""
        return SCHEMA

    def batches(
        self, files: Sequence[str], schema: pa.Schema, size: int = ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows.

        Raises
        ------
        ValueError
            If a file is not UTF-8.
        """
        for file in files:
            for some in batched(self._rows(file), size):
                yield pa.RecordBatch.from_arrays([pa.array(some, pa.string())], schema=schema)

    def _rows(self, file: str) -> Iterator[str]:
        lines: list[str] = []
        with opened(file) as text:
            for whole in text:
                line = whole.rstrip("\r\n")
                is_blank = not line.strip()
                ends = self.sample_by == "line" or (is_blank and self.sample_by == "paragraph")
                if not is_blank or (lines and not ends):
                    lines.append(line)
                if ends and lines:
                    yield "\n".join(lines)
                    lines.clear()
        while lines and not lines[-1].strip():
            lines.pop()
        if lines:
            yield "\n".join(lines)
