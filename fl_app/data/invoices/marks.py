"""Marks on a page, such as a stamp, in a colour that its words do not say.

With ``data.marks`` a model has to see the picture: a document is then asked for the colours of its
marks, and for nothing that is written. Where they stand, and in which colours, is drawn for each
document, from a generator of their own: the words of a page are the same with and without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fl_app.data.random_streams import choose

if TYPE_CHECKING:  # options are checked before any picture is drawn
    from PIL import ImageDraw

STREAM = 0x3A2C  # of a document's marks, beside that of its words
KINDS = ("stamp", "tick", "seal", "label")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "orange": (245, 150, 20),
    "purple": (150, 40, 170),
    "cyan": (20, 190, 210),
}
CELLS = 8  # along a side of the page; a mark stands inside one, so that no two overlap
SIDES = (80, 110)  # of a mark, in thousandths of the page


def draw_marks(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Return ``count`` marks of different kinds, each a ``kind``, a ``colour`` and a ``box``.

    The box has thousandths of the page, as those of words.
    """
    cell = 1000 // CELLS
    marks = []
    cells = rng.permutation(CELLS * CELLS)[:count].tolist()
    kinds = rng.permutation(len(KINDS))[:count].tolist()
    for place, kind in zip(cells, kinds, strict=True):
        side = int(rng.integers(*SIDES))
        x, y = (at * cell + int(rng.integers(cell - side + 1)) for at in divmod(place, CELLS))
        box = [x, y, x + side, y + side]
        marks.append({"kind": KINDS[kind], "colour": choose(rng, [*COLOURS]), "box": box})
    return marks


def with_marks(row: dict[str, Any], marks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row like ``row`` with these marks, which is asked for their colours alone."""
    kinds = [mark["kind"] for mark in marks]
    return row | {
        "marks": marks,
        "questions": [f"What colour is the {kind}?" for kind in kinds],
        "fields": kinds,
        "answers": [[mark["colour"]] for mark in marks],
    }


def paint(canvas: ImageDraw.ImageDraw, kind: str, colour: str, box: tuple[float, ...]) -> None:
    """Draw a mark into a box of pixels."""
    x0, y0, x1, y1 = box
    ink, pen = COLOURS[colour], max(round((x1 - x0) / 6), 1)
    if kind == "stamp":
        canvas.ellipse(box, outline=ink, width=pen)
    elif kind == "seal":
        canvas.ellipse(box, fill=ink)
    elif kind == "label":
        canvas.rectangle(box, fill=ink)
    else:
        foot = (x0 + (x1 - x0) / 3, y1)
        canvas.line([(x0, (y0 + y1) / 2), foot, (x1, y0)], fill=ink, width=pen)
