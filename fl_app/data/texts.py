"""Which values of a column are texts, and the rules by which others become texts.

Strings and integers are texts as they are written. A float, a date or a boolean can be written in
many ways, and a missing value in none: ``data.formats`` and ``data.empty`` say how.
"""

import math
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, Json, Value
from omegaconf import DictConfig

from fl_app.config import plain
from fl_app.data.kinds import TEXTS, kind_of, kind_of_type
from fl_app.data.sources import PARAGRAPH
from fl_app.faults import FaultError


def kinds(rows: Dataset, column: str) -> set[str]:
    """Return what the values of a column are; missing ones do not count."""
    feature = rows.features[column]
    if isinstance(feature, Json):
        return {kind_of(value) for value in rows[column][:] if value is not None}
    return {kind_of_type(rows.features.arrow_schema.field(column).type)}


def missing(rows: Dataset, column: str) -> list[int]:
    """Return the indices of rows without a value in a column: null, or not a number (NaN)."""
    values = rows.select_columns(column).with_format("arrow")[:].column(column)
    floats = pa.types.is_floating(values.type)
    if not values.null_count and not floats:
        return []
    nothing = values.is_null(nan_is_null=floats).to_numpy()
    return [int(index) for index in nothing.nonzero()[0]]


class Rules(NamedTuple):
    """How values that are no texts are written, and plain text is divided in rows.

    Attributes
    ----------
    formats : mapping of str to str
        Column -> how its numbers and dates are written, in Python's format language (``.2f``,
        ``%Y-%m-%d``), or its booleans (``yes|no``: true first). Strings stay as they are.
    empty : mapping of str to str
        Column -> the text that stands for a missing value.
    sample_by : str
        What a row of plain text is: line, paragraph or document.
    """

    formats: Mapping[str, str]
    empty: Mapping[str, str]
    sample_by: str = PARAGRAPH

    @classmethod
    def of(cls, cfg_data: DictConfig) -> "Rules":
        """Return the rules of ``data``."""
        formats, empty = (plain(cfg_data.get(key)) or {} for key in ("formats", "empty"))
        texts = {column: str(text) for column, text in empty.items()}
        return cls(formats, texts, cfg_data.get("sample_by") or PARAGRAPH)

    def applied(self, rows: Dataset) -> Dataset:
        """Return rows whose columns with a rule hold texts.

        Raises
        ------
        FaultError
            If a value cannot be written by its format.
        """
        for column in (*self.formats, *(one for one in self.empty if one not in self.formats)):
            if column not in rows.column_names:
                continue
            if not {*kinds(rows, column)} <= {*TEXTS} and column not in self.formats:
                continue
            texts = [self._text(column, value) for value in rows[column][:]]
            rows = rows.remove_columns(column).add_column(column, texts, feature=Value("string"))
        return rows

    def _text(self, column: str, value: Any) -> str | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return self.empty.get(column)
        rule = self.formats.get(column)
        if rule is None or isinstance(value, str):
            return str(value)
        try:
            if isinstance(value, bool):
                yes, no = rule.split("|")
                return yes if value else no
            if isinstance(value, date | time) and not re.search("%[A-Za-z]", rule):
                raise ValueError("it would be the same text for all dates")
            if isinstance(value, list | dict | bytes):
                raise ValueError("it is no single value")
            return format(value, rule)
        except (TypeError, ValueError):
            raise FaultError(
                "format",
                f"data.formats.{column}={rule!r} cannot write {value!r}: it should be such as .2f "
                "for numbers, %Y-%m-%d for dates, yes|no for true and false",
                column=column,
            ) from None
