"""Kinds of values: which are texts as they are, and which need a rule of ``data.formats``."""

from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

TEXTS = ("strings", "integers")
NESTED = ("lists", "mappings")
EXAMPLES = {"floats": ".2f", "dates": "%Y-%m-%d", "booleans": "yes|no"}  # of ``data.formats``
_BY_VALUE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "strings"),
    (bool, "booleans"),
    (int, "integers"),
    ((float, Decimal), "floats"),
    ((date, time), "dates"),
    (list, "lists"),
    (dict, "mappings"),
)
_BY_TYPE = (
    (pa.types.is_null, "strings"),  # a column without any value
    (pa.types.is_string, "strings"),
    (pa.types.is_large_string, "strings"),
    (pa.types.is_string_view, "strings"),
    (pa.types.is_integer, "integers"),
    (pa.types.is_boolean, "booleans"),
    (pa.types.is_floating, "floats"),
    (pa.types.is_decimal, "floats"),
    (pa.types.is_temporal, "dates"),
    (pa.types.is_struct, "mappings"),
    (pa.types.is_nested, "lists"),
)


def kind_of(value: Any) -> str:
    """Return what a value is one of, such as "strings" or "floats"."""
    return next((kind for one, kind in _BY_VALUE if isinstance(value, one)), "bytes")


def kind_of_type(found: pa.DataType) -> str:
    """Return what values of an Arrow type are; "" for JSON, where every value has its own."""
    if isinstance(found, pa.JsonType):
        return ""
    return next((kind for holds, kind in _BY_TYPE if holds(found)), "bytes")


def said(key: str, column: str, kind: str) -> dict[str, str]:
    """Return the text and the facts of the fault that a column holds a kind that is no text.

    Parameters
    ----------
    key : str
        The option that names the column.
    column : str
        The column.
    kind : str
        What its values are, see `kind_of`.
    """
    way = (
        "name a column of texts, or write them as texts first"
        if kind in NESTED or kind not in EXAMPLES
        else f"say how they are written, such as +data.formats.{column}='{EXAMPLES[kind]}', or "
        "store them as texts"
    )
    return {
        "whole": f"{key}: the column {column!r} holds {kind}: {way}",
        "column": column,
        "holds": kind,
        "way": way,
    }
