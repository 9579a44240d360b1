"""Read JSON: a list of objects, or objects one after the other as in JSON Lines.

A string stays a string, whatever it looks like, and an integer an integer. A column has the type of
its values. Where they differ (5 and "unknown", 5 and 0.5), each value keeps its own: the column is
stored as JSON. Integers of more than 64 bits are stored as their digits. A file is read in pieces,
so that its size does not matter.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from fl_app.data.readers.opened import ROWS, batched, opened

PIECE = 1 << 20  # characters
_SPACE = re.compile(r"[ \t\r\n]*")
_CUT = 16  # characters before the end of a piece at which JSON may only seem to be wrong
_INT64 = range(-(2**63), 2**63)
_MIXED = pa.json_()


def schema(files: Sequence[str], most: int | None = None) -> pa.Schema:
    """Return the columns, in the order in which they appear.

    Raises
    ------
    ValueError
        If a file is not JSON, or a row is not an object; with the number of the row.
    """
    seen: dict[str, _Column] = {}
    for file in files:
        for some in batched(islice(_rows(file), most)):
            for name in dict.fromkeys(name for row in some for name in row):
                seen.setdefault(name, _Column()).add([row.get(name) for row in some])
    if not seen:
        raise ValueError("it is empty: it should contain rows")
    return pa.schema([(name, column.type) for name, column in seen.items()])


def batches(files: Sequence[str], schema: pa.Schema, size: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows; a key that a row lacks is no value (null).

    Raises
    ------
    ValueError
        See `schema`.
    """
    for file in files:
        for some in batched(_rows(file), size):
            arrays = [_array([row.get(field.name) for row in some], field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rows(file: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    with opened(file) as text:
        buffer, at, number, comma = "", 0, 0, False
        end: str | None = None  # of the list, "" behind it
        while True:
            at = _space(buffer, at)
            if at == len(buffer):
                buffer, at = text.read(PIECE), 0
                if not buffer:
                    break
            elif buffer[at] == "[" and number == 0 and end is None:
                end, at = "]", at + 1
            elif buffer[at] == "]" and end == "]" and not comma:
                end, at = "", at + 1
            elif buffer[at] == "," and end == "]" and number and not comma:
                comma, at = True, at + 1
            elif buffer[at] != "{" or end == "" or (end == "]" and number and not comma):
                raise ValueError(
                    f"row {number + 1} should be an object, and is {buffer[at : at + 20]!r}: rows "
                    "are a list of objects, or one object a line"
                )
            else:
                try:
                    row, at = decoder.raw_decode(buffer, at)
                except json.JSONDecodeError as error:
                    cut = error.pos >= len(buffer) - _CUT or error.msg.startswith("Unterminated")
                    more = text.read(max(PIECE, len(buffer) - at)) if cut else ""
                    if not more:
                        raise ValueError(f"row {number + 1}: {error.msg}") from None
                    buffer, at = buffer[at:] + more, 0
                    continue
                number, comma = number + 1, False
                yield row
        if end == "]":
            raise ValueError(f"the list ends without ] behind row {number}")


def _space(buffer: str, at: int) -> int:
    found = _SPACE.match(buffer, at)
    return at if found is None else found.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object has the key {', '.join(twice)} twice")
    return found


class _Column:
    """The types of a column's values."""

    def __init__(self) -> None:
        self.types: set[type] = set()
        self.nested: pa.DataType = pa.null()  # of lists or mappings
        self.fits = True  # integers in 64 bits

    def add(self, values: list[Any]) -> None:
        types = {type(value) for value in values} - {type(None)}
        self.types |= types
        if types == {int}:
            self.fits &= all(value in _INT64 for value in values if value is not None)
        if types in ({list}, {dict}):
            self.nested = _common(self.nested, values)

    @property
    def type(self) -> pa.DataType:
        if not self.types:
            return pa.null()
        if len(self.types) > 1:
            return _MIXED
        (one,) = self.types
        if one is int:
            return pa.int64() if self.fits else pa.string()
        return {str: pa.string(), bool: pa.bool_(), float: pa.float64()}.get(one, self.nested)


def _common(known: pa.DataType, values: list[Any]) -> pa.DataType:
    """Return the type of lists or mappings that fits ``values`` and those before; else JSON."""
    if known == _MIXED:
        return _MIXED
    try:
        schemas = [pa.schema([("", kind)]) for kind in (known, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return _MIXED


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == _MIXED:
        texts = [None if v is None or v != v else json.dumps(_plain(v)) for v in values]
        return pa.ExtensionArray.from_storage(_MIXED, pa.array(texts, pa.string()))
    if kind == pa.string():
        values = [str(value) if type(value) is int else value for value in values]
    return pa.array(values, kind)


def _plain(value: Any) -> Any:
    """Return a value whose JSON every reader understands: large integers are their digits."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return str(value) if type(value) is int and value not in _INT64 else value
