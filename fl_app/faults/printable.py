"""What someone else says, made safe to show; what an error of ours says, without its traceback."""

import logging
import re
import traceback
import unicodedata

MOST_MARKS = 2  # on a letter: a pile of them covers the lines above

# Printable to Python, and yet drawn as nothing: Unicode's Default_Ignorable_Code_Point.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(said: object, most: int = 300) -> str:
    """Return what someone else said as one line that can do nothing to a terminal or a log.

    Line ends, control characters, ANSI sequences, marks of direction, of no width and in piles
    are shown as ``\\x1b`` and the like. A text that is printable already is returned as it is.

    Parameters
    ----------
    most : int
        Of a longer result this many characters are kept, and how much was left out is said.
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
    """Return a text of several lines, each as `printable` has it, the first ``most`` of them."""
    lines = str(said).split("\n")
    more = [f"... ({len(lines) - most:,} more lines)"] if len(lines) > most else []
    return "\n".join([*map(printable, lines[:most]), *more])


class WithoutTraceback(logging.Filter):
    """Lets a logger write some kinds of errors without where in the code they were raised.

    Parameters
    ----------
    *kinds
        What such an error says is all that there is to know.
    """

    def __init__(self, *kinds: type[BaseException]) -> None:
        super().__init__()
        self.kinds = kinds

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the line; of its error only what it says."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, self.kinds):
            record.exc_text = "".join(traceback.format_exception_only(error)).rstrip()
        return True
