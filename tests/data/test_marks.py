"""Laws of the marks on pages: what is asked stands in the picture, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.config import ConfigError, compose, plain
from fl_app.data import load
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.marks import COLOURS, KINDS, draw_marks
from fl_app.data.invoices.pictures import draw
from fl_app.data.invoices.provider import POOLS
from fl_app.preflight import check
from fl_app.runs.configurations import digest
from tests import small


def _rows(marks: int, pool: str = "federated") -> list[dict[str, Any]]:
    return make_documents(3, POOLS[pool], range(10), range(2), marks)


@pytest.mark.parametrize("pool", sorted(POOLS))
@pytest.mark.parametrize("marks", range(1, len(KINDS) + 1))
def test_the_words_are_those_of_the_page_without_them(pool: str, marks: int) -> None:
    for row, bare in zip(_rows(marks, pool), _rows(0, pool), strict=True):
        for column in ("document", "provider", "words", "boxes", "tags"):
            assert row[column] == bare[column]
        assert "marks" not in bare
        assert len(row["questions"]) == len(row["answers"]) == len({*row["questions"]}) == marks
        assert not {*COLOURS} & {word.lower() for word in row["words"]}


@given(st.integers(0, 2**32), st.integers(1, len(KINDS)))
def test_marks_are_on_the_page_and_apart(seed: int, count: int) -> None:
    marks = draw_marks(np.random.default_rng(seed), count)
    assert len({mark["kind"] for mark in marks}) == count
    boxes = [mark["box"] for mark in marks]
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        assert 0 <= x0 < x1 <= 1000
        assert 0 <= y0 < y1 <= 1000
        for u0, v0, u1, v1 in boxes[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0


@given(st.integers(0, 2**32))
def test_the_picture_has_each_colour_in_its_box_alone(seed: int) -> None:
    marks = draw_marks(np.random.default_rng(seed), len(KINDS))
    pixels = np.asarray(draw({"words": [], "boxes": [], "marks": marks}, (128, 128)))
    unseen = np.ones((128, 128), bool)
    for mark in marks:
        x0, y0, x1, y1 = (at * 128 // 1000 for at in mark["box"])
        inside = pixels[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2].reshape(-1, 3)
        assert (inside == COLOURS[mark["colour"]]).all(axis=1).any()
        unseen[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2] = False
    assert (pixels[unseen] == 255).all()


def test_every_split_is_asked_for_its_marks() -> None:
    cfg = compose(f"{small.DATA} data.validation_documents=2 data.source_documents=2 data.marks=2")
    for name, rows in load(cfg.data, 0).items():
        assert all(len(marks) == 2 for marks in rows["marks"]), name
        assert all({*fields} <= {*KINDS} for fields in rows["fields"]), name


def test_no_marks_are_the_configuration_of_before() -> None:
    before = plain(compose(""))
    assert before["data"].pop("marks") == 0
    assert digest(compose("")) == digest(before)
    assert digest(compose("data.marks=1")) != digest(before)


@pytest.mark.parametrize("marks", [-1, 5, 1.5])
def test_there_are_at_most_as_many_as_kinds(marks: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.marks"):
        check(compose(f"data.marks={marks}"))
