"""Texts made of the columns of a row."""

import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fl_app.data.kinds import TEXTS, kind_of, said
from fl_app.faults import FaultError


class Part(NamedTuple):
    """A literal and the field behind it, in a section or in none.

    Attributes
    ----------
    literal : str
        Text of the template.
    field : str or None
        The column of the field; None: there is none.
    section : str or None
        The column without which a row has no such part.
    """

    literal: str
    field: str | None
    section: str | None


class Template:
    """A text with ``{column}`` fields, such as ``"Question: {question}\\nAnswer:"``.

    What stands between ``{?column}`` and ``{/column}`` is left out of rows where the column is
    missing or blank. A brace that belongs to the text is doubled. Braces in values have no meaning.

    Parameters
    ----------
    key : str
        The option that holds the text, for errors.
    text : str
        With at least one field.

    Attributes
    ----------
    columns : tuple of str
        The columns that every row needs, each once.
    optional : tuple of str
        The columns of the sections, each once.

    Raises
    ------
    ValueError
        A brace that is not closed, a field that is not a plain name, a section that is not closed
        or in another one, or no field.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self.text = text
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{key}={text!r} is no template: {error}; double a brace") from None
        self._parts: list[Part] = []
        section: str | None = None
        for literal, name, spec, conversion in parsed:
            mark = name[:1] if name and name[0] in "?/" else ""
            column = name and name[len(mark) :]
            if name is not None and (not column or not column.isidentifier() or spec or conversion):
                raise ValueError(
                    f"{key}={text!r}: a field should be the name of a column in braces, and a "
                    "brace that is meant be doubled"
                )
            if mark and (column if mark == "/" else None) != section:
                raise ValueError(
                    f"{key}={text!r}: a section should begin with {{?{column}}} and end with "
                    f"{{/{column}}}, and hold no other section"
                )
            self._parts.append(Part(literal, None if mark else column, section))
            if mark:
                section = column if mark == "?" else None
        if section is not None:
            raise ValueError(f"{key}={text!r}: the section {{?{section}}} has no {{/{section}}}")
        sections = {part.section for part in self._parts} - {None}
        fields = [part.field for part in self._parts if part.field]
        if not fields:
            raise ValueError(f"{key}={text!r} should hold a {{column}}: it is the same in all rows")
        self.optional = tuple(
            dict.fromkeys(part.section for part in self._parts if part.section is not None)
        )
        self.columns = tuple(dict.fromkeys(one for one in fields if one not in sections))

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
            The row lacks a column of the template, has no value in it, or one that is no text.
        """
        return "".join(
            spell(part.literal) + ("" if part.field is None else text_of(row, part.field, self.key))
            for part in self._of(row)
        )

    def literals(self, row: Mapping[str, Any]) -> list[str]:
        """Return the template's own texts in the text of one row, in order."""
        return [part.literal for part in self._of(row)]

    def _of(self, row: Mapping[str, Any]) -> list[Part]:
        if not self.optional:
            return self._parts
        given = {name for name in self.optional if has_text(row.get(name))}
        return [part for part in self._parts if part.section is None or part.section in given]


def text_of(row: Mapping[str, Any], column: str, key: str = "task.reference") -> str:
    """Return the text in a column of a row.

    Raises
    ------
    FaultError
        The row lacks the column, has no value in it, or one that is no text.
    """
    value = row.get(column)
    if value is None:
        problem = "is empty in a row" if column in row else "is not in the data"
        raise FaultError(
            "empty",
            f"the column {column!r} of {key} {problem}, which has {', '.join(map(str, row))}",
            column=column,
            rows=1,
        )
    if (kind := kind_of(value)) not in TEXTS:
        raise FaultError("kind", **said(key, column, kind))
    return str(value)


def has_text(value: Any) -> bool:
    """Tell whether a value is one: not missing, and not a blank text."""
    return value is not None and str(value).strip() != ""
