"""Markdown of text that others have written: a value in it never ends a cell, a span or a table."""

import re
from collections.abc import Sequence
from urllib.parse import quote

SPECIAL = re.compile(r"([\\`*\[\]<>&])")  # of Markdown and HTML


def escaped(text: str) -> str:
    """Return a text that is shown as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return a text as a span of code, on one line."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def link(file: str) -> str:
    """Return a link to a file beside the page."""
    return f"[{escaped(file)}]({quote(file)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown, such as `escaped` and `code` return."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )
