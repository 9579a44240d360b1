"""Read CSV: every cell is a text as it is written, and an empty cell is no value (null).

Words such as NA, null or nan are texts like any other, and so are numbers: 007 stays 007.
"""

import csv
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa

from fl_app.data.readers.opened import ROWS, batched, opened


class Cells:
    """The reader of files whose cells are divided by ``delimiter``, quoted as in RFC 4180.

    The first line names the columns; a blank one there is called ``Unnamed: 0`` by its position.
    Blank lines are no rows. All files of a split have the same columns, in any order.
    """

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter

    def schema(self, files: Sequence[str], most: int | None = None) -> pa.Schema:
        """Return the columns of the first lines: all are strings.

        Raises
        ------
        ValueError
            If a file has no first line, names a column twice, or has other columns than the first.
        """
        found = []
        for file in files:
            with opened(file) as text:
                found.append(self._names(text))
            if {*found[0]} != {*found[-1]}:
                raise ValueError(
                    f"its files have different columns: {', '.join(found[0])}, and in {file!r} "
                    f"{', '.join(found[-1])}"
                )
        return pa.schema([(name, pa.string()) for name in found[0]])

    def batches(
        self, files: Sequence[str], schema: pa.Schema, size: int = ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows.

        Raises
        ------
        ValueError
            If a row has more or fewer cells than the first line, or a quote is not closed; with
            the number of the line.
        """
        for file in files:
            with opened(file) as text:
                lines = self._lines(text)
                names = _named(next(lines))
                order = [names.index(name) for name in schema.names]
                for some in batched(lines, size):
                    columns = list(zip(*some, strict=True))
                    arrays = [pa.array([c or None for c in columns[i]], pa.string()) for i in order]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _names(self, text: Iterator[str]) -> list[str]:
        first = next(self._lines(text), None)
        if first is None:
            raise ValueError("it is empty: it should contain rows")
        names = _named(first)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"its first line names the column {', '.join(twice)} twice")
        return names

    def _lines(self, text: Iterator[str]) -> Iterator[list[str]]:
        """Yield the cells of every line that is not blank, the first one included."""
        limit = csv.field_size_limit(sys.maxsize)  # of the process; its default is 128 KiB
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        width = 0
        try:
            for line in reader:
                if not line or (len(line) == 1 and not line[0].strip() and width != 1):
                    continue
                width = width or len(line)
                if len(line) != width:
                    raise ValueError(
                        f"line {reader.line_num} has {len(line)} cells, and the first line "
                        f"{width}: quote a cell that contains {self.delimiter!r}"
                    )
                yield line
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None
        finally:
            csv.field_size_limit(limit)


def _named(first: list[str]) -> list[str]:
    return [name or f"Unnamed: {index}" for index, name in enumerate(first)]
