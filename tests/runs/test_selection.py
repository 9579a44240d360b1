"""Which round is selected, and by which scores."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fl_app.report import page as report
from fl_app.runs import runs_table, selection, text
from fl_app.runs.read import read
from fl_app.runs.text import size
from fl_app.sweep.job import bytes_to_target
from fl_app.tasks import metrics as scales
from tests.finished_runs import finished

scores = st.lists(st.integers(0, 5).map(lambda n: n / 5), min_size=1, max_size=6)


def rows(split: str, values: list[float]) -> list[selection.Metric]:
    return [(r, split, "anls", value) for r, value in enumerate(values)]


@given(scores, st.data(), st.integers(0, 6).map(lambda n: n / 5))
def test_with_a_validation_split_test_scores_select_nothing(tested, data, goal) -> None:
    count = len(tested)
    validated = data.draw(st.lists(st.sampled_from(tested), min_size=count, max_size=count))
    other = data.draw(st.permutations(tested))
    metrics = rows("validation", validated) + rows("test", tested)
    assert selection.selected_on(metrics, "anls") == "validation"
    best = selection.best_round(metrics, "anls")
    met = selection.first_met(metrics, "anls", goal)
    assert validated.index(max(validated)) == best
    assert met == next((r for r, value in enumerate(validated) if value >= goal), None)
    instead = rows("validation", validated) + rows("test", other)
    assert (best, met) == (
        selection.best_round(instead, "anls"),
        selection.first_met(instead, "anls", goal),
    )


@given(scores, st.data())
def test_a_run_that_lacks_validation_scores_is_selected_on_test(tested, data) -> None:
    """Also if only some of its rounds lack them: an earlier version began it."""
    some = data.draw(st.sets(st.integers(0, len(tested) - 1), max_size=len(tested) - 1))
    validated = [(r, "validation", "anls", 1 - tested[r]) for r in sorted(some)]
    metrics = validated + rows("test", tested)
    assert selection.selected_on(metrics, "anls") == "test"
    assert selection.best_round(metrics, "anls") == tested.index(max(tested))


@given(scores)
def test_a_round_whose_test_score_is_not_there_yet_is_not_selected(tested) -> None:
    metrics = rows("validation", [*tested, 1.0]) + rows("test", tested)
    assert selection.selected_on(metrics, "anls") == "validation"
    assert selection.best_round(metrics, "anls") == tested.index(max(tested))


@given(scores, st.integers(0, 6).map(lambda n: n / 5))
def test_where_lower_is_better_the_least_score_is_the_best(found, goal) -> None:
    """The same rounds as of a metric whose values have the other sign."""
    lower = [(r, "test", "perplexity", 2 - value) for r, value in enumerate(found)]
    assert selection.best_round(lower, "perplexity") == found.index(max(found))
    assert selection.first_met(lower, "perplexity", 2 - goal) == next(
        (r for r, value in enumerate(found) if 2 - value <= 2 - goal), None
    )
    best = 2 - max(found)
    assert selection.last_is_worse(lower, "perplexity") == (
        2 - found[-1] > best + selection.CLEARLY * best
    )


def test_without_scores_there_is_no_round() -> None:
    assert selection.best_round([], "anls") is None
    assert selection.first_met([], "anls", 0.0) is None
    assert selection.first_met(rows("test", [0.5]), "anls", None) is None


def test_results_say_which_scores_selected(tmp_path: Path) -> None:
    """In the summary, the table, the objective of a sweep, the console and the report."""
    told = {
        split: finished(tmp_path / split, "target.value=0.6", scores=(0.3, 0.7, 0.6), validated=v)
        for split, v in (("test", ()), ("validation", (0.2, 0.5, 0.65)))
    }
    for split, best, goal in (("test", 1, 1), ("validation", 2, 2)):
        run = read(told[split])
        assert (run.selected_on, run.best_round, run.first_met(0.6)) == (split, best, goal)
        assert run.summary["best"] == {
            "metric": "anls",
            "selected_on": split,
            "round": best,
            "value": {"test": 0.7, "validation": 0.65}[split],
            "test": {"test": 0.7, "validation": 0.6}[split],
            "last": {"test": 0.6, "validation": 0.65}[split],
            "last_is_worse": split == "test",
            "adapter": None,
        }
        sent = run.ledger.sent(until=goal)
        found = run.summary["target"]
        assert (found["selected_on"], found["round"], found["bytes"]) == (split, goal, sent)
        assert bytes_to_target(run) == sent
        page = (report.write(told[split])).read_text(encoding="utf-8")
        value = {"test": 0.7, "validation": 0.65}[split]
        by = f"the best: ANLS {value:.4f} on {split}, which selected it"
        assert f"<b>round {best}</b>{by}" in page
        assert f"<b>{size(sent)}</b>sent until ANLS 0.6 (round {goal} by {split})" in page
    table = runs_table([*told.values()])
    assert table["selected_on"].to_list() == ["test", "validation"]
    assert table["best_round"].to_list() == [1, 2]
    assert table["rounds_to_target"].to_list() == [1, 2]


def test_a_model_that_diverged_makes_no_line_of_digits() -> None:
    assert text.score("perplexity", scales.MOST) == "1.000e+300"
    assert text.score("perplexity", 999_999.0) == "999999.0000"
