"""Texts made of the columns of a row."""

import string
from collections.abc import Callable, Mapping
from typing import Any

from fl_app.faults import FaultError


class Template:
    """A text with ``{column}`` fields, such as ``"Question: {question}\\nAnswer:"``.

    A brace that belongs to the text is doubled. Braces in values have no meaning.

    Parameters
    ----------
    key : str
        The option that holds the text, for errors.
    text : str
        With at least one field.

    Attributes
    ----------
    columns : tuple of str
        The columns of the fields, each once.
    literals : list of str
        The text between the fields.

    Raises
    ------
    ValueError
        A brace that is not closed, a field that is not a plain name, or no field.
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
        self.literals = [literal for literal, _, _, _ in parsed]
        self._fields = [name for _, name, _, _ in parsed]

    def fill(self, row: Mapping[str, Any], spell: Callable[[str], str] = str) -> str:
        """Return the text of one row.

        Parameters
        ----------
        row : mapping
            Values by column.
        spell : callable
            Returns a literal in the spelling that is wanted; the values are not changed.

        Raises
        ------
        FaultError
            The row lacks a column of the template, or has no value in it.
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
        return "".join(
            spell(literal) + ("" if name is None else str(row[name]))
            for literal, name in zip(self.literals, self._fields, strict=True)
        )
