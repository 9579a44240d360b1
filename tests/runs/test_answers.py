"""answers.json: the same examples for every model, and no more than the server's rows say."""

import json

import pytest

from fl_app.runs import answers
from fl_app.runs.answers import BEST, LAST, START


def shown():
    return [(f"question {n}", "yes" if n % 3 else "no") for n in range(40)]


def test_start_best_and_last_answer_the_same_examples(tmp_path):
    labels = ["no", "yes"]
    answers.update(tmp_path, [LAST, START, BEST], 5, ["no"] * 40, shown, labels)
    assert answers.one_label(tmp_path).startswith("the model predicts 'no' alone: ")
    assert "35.00%" in answers.one_label(tmp_path)
    right = [reference for _, reference in shown()]
    answers.update(tmp_path, [LAST], 5, right, shown, labels)
    found = answers.read(tmp_path)
    assert len(found["samples"]) == answers.SHOWN
    for one in found["samples"]:
        assert (one["asked"], one["reference"]) == shown()[one["example"]]
        assert (one[START], one[BEST], one[LAST]) == ("no", "no", one["reference"])
    assert found["classes"][LAST]["confusion"] == [[14, 0], [0, 26]]
    assert found["classes"][BEST]["confusion"] == [[14, 0], [26, 0]]
    assert answers.one_label(tmp_path) is None
    before = (tmp_path / answers.FILE).read_bytes()
    answers.update(tmp_path, [LAST], 5, right, shown, labels)
    assert (tmp_path / answers.FILE).read_bytes() == before
    answers.update(tmp_path, [LAST], 6, right, shown, labels)  # another seed, other examples
    assert [one["example"] for one in answers.read(tmp_path)["samples"]] != [
        one["example"] for one in found["samples"]
    ]


def test_free_texts_have_no_classes(tmp_path):
    answers.update(tmp_path, [LAST], 0, ["x" * 9999] * 3, lambda: shown()[:3], None)
    found = answers.read(tmp_path)
    assert found["classes"] == {}
    assert [len(one[LAST]) for one in found["samples"]] == [answers.LONGEST] * 3
    assert answers.one_label(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        None, [], {"samples": []}, {"samples": [{}], "classes": {}}, {"samples": 3, "classes": {}},
        {"samples": [], "classes": {"last": {"labels": ["a"], "confusion": [], "by_label": []}}},
        {"samples": [], "classes": {"last": []}},
    ],
)  # fmt: skip
def test_a_file_of_somebody_else_is_not_shown(content, tmp_path):
    (tmp_path / answers.FILE).write_text(json.dumps(content))
    assert answers.read(tmp_path) is None
    assert answers.one_label(tmp_path) is None
