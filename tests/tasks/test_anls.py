"""Laws of the competition's metric."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.tasks.anls import accuracy, anls, edit_distance, score

texts = st.text(alphabet="abcAB 12", max_size=10)
answers = st.lists(texts, min_size=1, max_size=3)


@given(texts, texts, texts)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def _slow_distance(a: str, b: str) -> int:
    """The recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    changed = _slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(changed, _slow_distance(a[1:], b) + 1, _slow_distance(a, b[1:]) + 1)


@given(st.text(alphabet="ab1", max_size=5), st.text(alphabet="ab1", max_size=5))
def test_edit_distance_follows_its_definition(a: str, b: str) -> None:
    assert edit_distance(a, b) == _slow_distance(a, b)


@given(texts, answers)
def test_case_and_outer_space_do_not_matter(prediction: str, accepted: list[str]) -> None:
    for metric in (anls, accuracy):
        padded = metric(f"  {prediction.upper()}\n", [f" {a.lower()} " for a in accepted])
        assert metric(prediction, accepted) == padded


@given(texts, answers, texts)
def test_another_accepted_answer_never_lowers_a_score(
    prediction: str, accepted: list[str], other: str
) -> None:
    for metric in (anls, accuracy):
        best = max(metric(prediction, [answer]) for answer in [*accepted, other])
        assert metric(prediction, [*accepted, other]) == best


@given(texts, answers)
def test_range_and_order_of_the_metrics(prediction: str, accepted: list[str]) -> None:
    similarity = anls(prediction, accepted)
    assert similarity == 0 or 0.5 <= similarity <= 1
    if prediction.strip():
        assert accuracy(prediction, accepted) == (similarity == 1)
    else:
        assert similarity == 0


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("12.50", "12.50", 1.0),
        ("12.50", "12.60", 0.8),
        ("ab", "abcd", 0.5),  # exactly at the threshold: kept
        ("ab", "abcde", 0.0),
        ("", "a", 0.0),
        ("", "", 0.0),
    ],
)
def test_anls_of_known_pairs(prediction: str, answer: str, expected: float) -> None:
    assert anls(prediction, [answer]) == pytest.approx(expected)


def test_score_is_the_mean_over_samples() -> None:
    scores = score(["a", "", "abcd"], [["a"], ["b"], ["x", "abce"]])
    assert scores == {"anls": pytest.approx(1.75 / 3), "accuracy": pytest.approx(1 / 3)}


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        score([], [])
    with pytest.raises(ValueError, match="shorter"):
        score(["a"], [])
    with pytest.raises(ValueError, match="accepted answer"):
        anls("a", [])
