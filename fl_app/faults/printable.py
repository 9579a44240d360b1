"""Make text of others safe to show, and log errors without their tracebacks."""

import logging
import re
import traceback
import unicodedata

MOST_MARKS = 2  # combining marks on a letter: more of them cover the lines above

# Python calls these printable, but they are invisible: Unicode's Default_Ignorable_Code_Point.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

# Characters that start a formula, at the start of a cell, or of what a spreadsheet would read as a
# cell if its separator is not the comma.
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@＝＋－＠])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def printable(said: object, most: int = 300) -> str:
    """Return a text of others as one line that is harmless to a terminal or a log.

    Line ends, control characters, ANSI sequences, direction marks, characters without width and
    more than ``MOST_MARKS`` combining marks are escaped, such as ``\\x1b``. A printable text does
    not change.

    Parameters
    ----------
    said : object
        The text.
    most : int
        Largest number of characters; the result states how many were cut off.
    """
    text = str(said)
    shown: list[str] = []
    length = marks = 0
    for at, char in enumerate(text):
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        safe = char.isprintable() and not _INVISIBLE.match(char) and marks <= MOST_MARKS
        piece = char if safe else char.encode("unicode_escape").decode()
        length += len(piece)
        if length > most:
            return f"{''.join(shown)} ... ({len(text) - at:,} more characters)"
        shown.append(piece)
    return "".join(shown)


def printable_lines(said: object, most: int = 100) -> str:
    """Return the first ``most`` lines of a text, each made safe by `printable`."""
    lines = str(said).split("\n")
    more = [f"... ({len(lines) - most:,} more lines)"] if len(lines) > most else []
    return "\n".join([*map(printable, lines[:most]), *more])


def no_formula(text: str) -> str:
    """Return a text that no spreadsheet evaluates: a formula gets an apostrophe.

    A number, such as ``-0.5``, does not change.
    """
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)


class WithoutTraceback(logging.Filter):
    """A filter that logs errors of some types without their tracebacks.

    Parameters
    ----------
    *kinds
        The types of errors; their messages say everything.
    """

    def __init__(self, *kinds: type[BaseException]) -> None:
        super().__init__()
        self.kinds = kinds

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, but replace a traceback by the error's message."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, self.kinds):
            record.exc_text = "".join(traceback.format_exception_only(error)).rstrip()
        return True
