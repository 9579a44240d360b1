"""answers.json: the same examples for every model, and no more than the server's rows say."""

import json

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from fl_app.runs import answers
from fl_app.runs.answers import BEST, LAST, START
from fl_app.runs.by_client import OWN, SERVER, extremes, on_own_rows, on_test_rows


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


class Lengths:
    """A task whose rows have several examples each, and whose score is that of the right ones."""

    def examples(self, rows):
        return sum(row["n"] for row in rows)

    def score(self, predictions, rows):
        assert len(predictions) == self.examples(rows)
        wanted = [one for row in rows for one in [row["right"]] * row["n"]]
        right = [said == one for said, one in zip(predictions, wanted, strict=True)]
        return {"accuracy": sum(right) / len(right)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=9))
def test_scores_by_client_are_parts_of_the_whole(owners) -> None:
    rows = Dataset.from_list(
        [{"ward": who, "n": n, "right": str(k % 2)} for k, (who, n) in enumerate(owners)]
    )
    task, said = Lengths(), ["1"] * sum(n for _, n in owners)
    found = on_test_rows(task, said, rows, "ward")
    assert {*found} == {who for who, _ in owners}
    assert sum(one["rows"] for one in found.values()) == len(said)
    right = sum(one["rows"] * one["accuracy"] for one in found.values())
    assert right == pytest.approx(task.score(said, rows)["accuracy"] * len(said))
    assert on_test_rows(task, said, rows, None) == {}
    assert on_test_rows(task, said, rows, "other") == {}


def test_scores_by_client_are_kept_for_each_model_and_place(tmp_path) -> None:
    own = on_own_rows({1: {"num-examples": 4, "accuracy": 0.5}, 3: {"num-examples": 2}}, {3: "b"})
    assert own == {"1": {"rows": 4, "accuracy": 0.5}, "b": {"rows": 2}}
    answers.update(
        tmp_path, [LAST], 0, ["x"] * 3, lambda: shown()[:3], None, {OWN: own, SERVER: {}}
    )
    answers.update(tmp_path, [BEST], 0, ["x"] * 3, lambda: shown()[:3], None, {OWN: own})
    assert answers.read(tmp_path)["clients"] == {LAST: {OWN: own}, BEST: {OWN: own}}
    assert answers.of_clients(tmp_path) == {OWN: own}
    assert extremes(own, "accuracy") is None
    assert extremes({"a": {"mcc": 0.1}, "b": {"mcc": -0.1}, "c": {"mcc": 0.0}}, "mcc") == ("b", "a")


@pytest.mark.parametrize(
    "content",
    [
        None, [], {"samples": []}, {"samples": [{}], "classes": {}}, {"samples": 3, "classes": {}},
        {"samples": [], "classes": {"last": {"labels": ["a"], "confusion": [], "by_label": []}}},
        {"samples": [], "classes": {"last": []}},
        {"samples": [], "classes": {}, "clients": {"last": {"test": {"a": {"rows": "1"}}}}},
        {"samples": [], "classes": {}, "clients": 3},
    ],
)  # fmt: skip
def test_a_file_of_somebody_else_is_not_shown(content, tmp_path):
    (tmp_path / answers.FILE).write_text(json.dumps(content))
    assert answers.read(tmp_path) is None
    assert answers.one_label(tmp_path) is None
