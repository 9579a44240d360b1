"""Open a file by its literal name, and cut an iterator of rows into batches."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import pyarrow as pa

ROWS = 1000  # rows in a batch
T = TypeVar("T")


@contextmanager
def opened(path: str) -> Iterator[io.TextIOWrapper]:
    """Open a file of UTF-8 text, with or without a byte order mark; line ends stay as they are.

    Files that end in .gz, .bz2, .zst or .lz4 are decompressed while they are read.

    Raises
    ------
    ValueError
        If the block comes upon a byte that is not UTF-8.
    """
    try:
        with (
            pa.input_stream(path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error}): save it as UTF-8") from None


def batched(rows: Iterator[T], size: int = ROWS) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` rows."""
    while some := list(islice(rows, size)):
        yield some
