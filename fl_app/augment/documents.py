"""Documents with other numbers, elsewhere on the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig

from fl_app.augment import Row

LARGEST = 1000  # of a box's coordinates


class Documents:
    """A permutation of digits, and a scale and a shift of boxes, drawn for each document.

    Digits are exchanged alike in words, questions and answers, so that an answer still stands on
    its page: what a number looks like tells nothing of the field that it is in. All boxes are
    scaled by one factor and shifted by one distance along each axis, and cut at the page's edges; a
    box of zeros, which stands for no place, stays.

    Parameters
    ----------
    cfg : DictConfig
        ``digits``: whether to exchange them. ``scale``: the factor is within 1 +- this. ``shift``:
        the most units of the page, of 1000, by which it is shifted.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.digits, self.scale, self.shift = bool(cfg.digits), float(cfg.scale), int(cfg.shift)

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """Return a document like ``row``, which is not changed."""
        changed = dict(row)
        if self.digits:
            table = str.maketrans("0123456789", "".join(map(str, rng.permutation(10))))
            for column in ("words", "questions"):
                changed[column] = [text.translate(table) for text in row[column]]
            changed["answers"] = [[one.translate(table) for one in some] for some in row["answers"]]
        factor = rng.uniform(1 - self.scale, 1 + self.scale)
        right, down = rng.integers(-self.shift, self.shift + 1, size=2).tolist()
        changed["boxes"] = [_moved(box, factor, (right, down)) for box in row["boxes"]]
        return changed


def _moved(box: Sequence[int], factor: float, by: tuple[int, int]) -> list[int]:
    if not any(box):
        return list(box)
    return [min(max(int(at * factor) + by[axis % 2], 0), LARGEST) for axis, at in enumerate(box)]
