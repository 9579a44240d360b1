"""Augmented documents: answers stay on their pages, digits are exchanged one to one, by seed."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app import augment
from fl_app.augment import checks
from fl_app.augment.documents import Documents
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.data import load
from fl_app.training.loop import train
from fl_app.tree import digest
from tests import small

ON = "augment=documents"


@pytest.fixture(scope="module")
def rows():
    return load(compose(small.DATA).data, 0)["train"].to_list()


def documents(more: str = "") -> Documents:
    return Documents(compose(f"{ON} {more}").augment)


def test_an_answer_stays_on_its_page(rows) -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for row in rows:
        new = documents()(row, rng)
        page, new_page = " ".join(row["words"]), " ".join(new["words"])
        for answers, new_answers in zip(row["answers"], new["answers"], strict=True):
            for before, after in zip(answers, new_answers, strict=True):
                assert (before in page) == (after in new_page)
                assert len(before) == len(after)
                changed += before != after
        assert [re.sub(r"\d", "0", word) for word in new["words"]] == [
            re.sub(r"\d", "0", word) for word in row["words"]
        ]
    assert changed > len(rows)


@given(seed=st.integers(0, 2**63 - 1))
def test_digits_are_exchanged_one_to_one_in_all_texts_of_a_row(seed: int) -> None:
    row = {
        "words": ["0123456789", "a1"], "boxes": [[0, 0, 1, 1], [1, 1, 2, 2]],
        "questions": ["what is 98?"], "answers": [["98", "0123456789"]],
    }  # fmt: skip
    new = documents()(row, np.random.default_rng(seed))
    digits = new["words"][0]
    assert sorted(digits) == list("0123456789")
    assert new["words"][1] == f"a{digits[1]}"
    assert new["answers"] == [[digits[9] + digits[8], digits]]
    assert new["questions"] == [f"what is {digits[9]}{digits[8]}?"]


@given(
    boxes=st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4), max_size=8),
    seed=st.integers(0, 1000),
)
def test_boxes_stay_boxes_of_the_page(boxes: list[list[int]], seed: int) -> None:
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
    row = {"words": ["x"] * len(boxes), "boxes": boxes, "questions": [], "answers": []}
    new = documents("augment.scale=0.5 augment.shift=300")(row, np.random.default_rng(seed))
    for (a, b, c, d), (x0, y0, x1, y1) in zip(boxes, new["boxes"], strict=True):
        if not (a or b or c or d):
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)
        assert 0 <= x0 <= x1 <= 1000
        assert 0 <= y0 <= y1 <= 1000


def test_switched_off_parts_change_nothing_and_rows_stay(rows) -> None:
    row = rows[0]
    before = dict(row)
    same = documents("augment.digits=false augment.scale=0.0 augment.shift=0")
    assert same(row, np.random.default_rng(0)) == row
    moved = documents("augment.digits=false")(row, np.random.default_rng(0))
    assert (moved["words"], moved["answers"]) == (row["words"], row["answers"])
    assert moved["boxes"] != row["boxes"]
    assert row == before


def test_a_turn_is_of_its_seed_and_differs_from_one_without(rows) -> None:
    here = open_session(small.DATA)
    made = augment.build(compose(ON))

    def turn(seed: int, augmented) -> str:
        here.adapter.set(here.model, here.theta0)
        train(
            here.model, rows[:4], here.task, here.cfg.optimizer,
            epochs=1, batch_size=2, seed=seed, augment=augmented,
        )  # fmt: skip
        return digest(here.adapter.get(here.model))

    first = turn(3, made)
    assert turn(3, made) == first
    assert turn(4, made) != first
    assert turn(3, None) != first
    assert turn(3, None) == turn(3, None)


def test_it_is_off_by_default() -> None:
    assert augment.build(compose("")) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{ON} model=llama-tiny task=word_problems data=word_problems",
         r"augment\.id=documents is for task\.id=docvqa, and task\.id=causal_lm has no augmentation"
         r": set augment=none"),
        (f"{ON} augment.scale=1.5", r"augment\.scale=1\.5 should be"),
        (f"{ON} augment.shift=2000", r"augment\.shift=2000 should be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checks.check(compose(words))


def test_every_augmentation_has_tasks_and_a_file_of_conf() -> None:
    assert {*augment.TASKS} == {*augment.AUGMENTS}
    for name in augment.AUGMENTS:
        assert augment.build(compose(f"augment={name}")) is not None
