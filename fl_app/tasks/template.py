"""Texts made of the columns of a row."""

import string
from collections.abc import Mapping
from typing import Any

from fl_app.faults import FaultError


class Template:
    """A text with ``{column}`` fields, such as ``"Question: {question}\\nAnswer:"``.

    A brace that is meant is doubled. Values are put in as they are: braces in them mean nothing.

    Args:
        key: the option that holds the text, for errors.
        text: with at least one field.

    Raises:
        ValueError: a brace that is not closed, a field that is no plain name, or no field.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self.text = text
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{key}={text!r} is no template: {error}; double a brace") from None
        fields = [part for part in parsed if part[1] is not None]
        for _, name, spec, conversion in fields:
            if not name or not name.isidentifier() or spec or conversion:
                raise ValueError(
                    f"{key}={text!r}: a field should be the name of a column in braces, and a "
                    "brace that is meant be doubled"
                )
        if not fields:
            raise ValueError(f"{key}={text!r} should hold a {{column}}: it is the same in all rows")
        self.columns = tuple(dict.fromkeys(str(name) for _, name, _, _ in fields))

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text of one row.

        Raises:
            ValueError: the row lacks a column of the template, or has no value in it.
        """
        for column in self.columns:
            if row.get(column) is None:
                problem = "is empty in a row" if column in row else "is not in the data"
                raise FaultError(
                    "empty",
                    f"the column {column!r} of {self.key} {problem}, which has "
                    f"{', '.join(map(str, row))}",
                    column=column,
                    rows=1,
                )
        return self.text.format_map(row)
