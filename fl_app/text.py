"""How numbers, and what a peer says, are shown to people: in logs, on the console, in reports."""

import logging
import re
import traceback
import unicodedata
from typing import Any

LAST_LINE = "report"  # begins the last line that a completed run prints

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


def size(count: float) -> str:
    """Return bytes as text with three digits: ``36.9 kB`` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a time as text: ``86.2 s``, below a second ``58 ms``."""
    return f"{seconds:.1f} s" if seconds >= 1 or seconds == 0 else f"{1000 * seconds:.0f} ms"


def title(metric: str) -> str:
    """Return a metric's name in a sentence."""
    return metric.upper() if metric == "anls" else metric


def score(metric: str, value: float) -> str:
    """Return a score as text: a share of right answers in percent."""
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4f}"


def is_rehearsal(spent: dict[str, Any]) -> bool:
    """Return whether a run's noise can be taken off again by who knows its configuration."""
    return bool(spent["noise"] == "seeded")


def guarantee(spent: dict[str, Any]) -> str:
    """Return what a run has cost the worst-off client in privacy, or that it protected nobody."""
    said = (
        f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:.2g} of one {spent['unit']}, "
        f"noise {spent['noise_multiplier']:.3g}"
    )
    if is_rehearsal(spent):
        return (
            f"a rehearsal, which protects nobody: {said}, drawn from the run's seed; whoever knows "
            "the configuration can take it off again"
        )
    return f"{said} ({spent['noise']})"
