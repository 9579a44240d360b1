"""Laws of classifiers whose rows have a number, or any number of labels."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from fl_app import data, tasks
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.data import kept
from fl_app.faults import FaultError
from fl_app.models.head import named_outputs
from fl_app.preflight import check_values
from fl_app.preflight.inferred import with_inferred
from fl_app.preflight.survey import survey
from fl_app.runs.predictions import predicted
from fl_app.runs.trained import Trained
from fl_app.tasks import label_sets, metrics
from fl_app.tasks.regression import number, scores
from fl_app.training.loop import train
from tests import architectures

NAMES = ["a", "b", "c"]
TEXTS = ["good", "bad", "so so", "fine"]
NUMBERS = [{"text": t, "label": x} for t, x in zip(TEXTS, (2, -100.0, "0.5", 1.25), strict=True)]
LISTS = [
    {"text": t, "label": x} for t, x in zip(TEXTS, (["a"], [], ["c", "a"], ["b"]), strict=True)
]
ROWS = {"regression": NUMBERS, "multi_label_classification": LISTS}
OUTPUTS = {"regression": 1, "multi_label_classification": 3}


def _task(name: str, more: str = "") -> Any:
    labels = "" if name == "regression" else "task.labels=[a,b,c]"
    cfg = compose(f"task={name} 'task.texts=[text]' {labels} {more}")
    config = architectures.config("bert", num_labels=OUTPUTS[name], problem_type=name)
    return tasks.build(cfg, architectures.tokenizer("<s> $A"), config)


def _model(name: str) -> Any:
    return copy.deepcopy(
        architectures.model("bert", 2.0, num_labels=OUTPUTS[name], problem_type=name)
    )


@pytest.mark.parametrize("name", ROWS)
def test_the_loss_is_that_of_transformers(name: str) -> None:
    """Written out: the mean squared error; the mean binary cross-entropy of all labels."""
    task, model = _task(name), _model(name)
    batch = task.training(ROWS[name])
    logits = task.logits(model, ROWS[name]).double()
    with torch.inference_mode():
        loss = float(model(**batch).loss)
        alone = [float(model(**task.training([row])).loss) for row in ROWS[name]]
    if name == "regression":
        true = torch.tensor([2, -100, 0.5, 1.25]).double()
        wanted = (logits[:, 0] - true) ** 2
    else:
        true = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]]).double()
        p = logits.sigmoid()
        wanted = -(true * p.log() + (1 - true) * (1 - p).log()).mean(1)
    assert loss == pytest.approx(float(wanted.mean()), rel=1e-4)
    assert alone == pytest.approx(wanted.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ROWS)
def test_training_learns_the_rows(name: str) -> None:
    rows = [{**row, "label": row["label"] if name != "regression" else float(k)}
            for k, row in enumerate(ROWS[name])]  # fmt: skip
    task, model = _task(name), _model(name)
    cfg = compose(f"task={name} model=llama-tiny").optimizer
    with torch.random.fork_rng(devices=[]):
        turn = train(
            model, rows, task, cfg, epochs=60, batch_size=2, gradient_accumulation=2, seed=0
        )
    said = task.predict(model, rows)
    found = task.score(said, rows)
    assert turn.loss < 0.5
    assert (*found,) == task.metrics
    assert found[task.metrics[0]] > 0.9
    assert json.loads(json.dumps(said)) == said
    assert task.shown(rows)[2] == ("so so", "2.0" if name == "regression" else '["a", "c"]')


def test_a_number_that_is_the_mark_of_other_labels_counts() -> None:
    """-100 marks tokens that are not trained; as a number it is one."""
    rows = [{"text": "x", "label": -100}] * 2
    cfg = compose("task=regression model=llama-tiny").optimizer
    with torch.random.fork_rng(devices=[]):
        turn = train(_model("regression"), rows, _task("regression"), cfg, epochs=1, batch_size=1,
                     gradient_accumulation=2, seed=0)  # fmt: skip
    assert turn.loss > 100


@pytest.mark.parametrize(
    ("name", "bad", "says"),
    [
        ("regression", ["x", "nan", "1_0", True, "1e999"], "should be a number"),
        ("multi_label_classification", [["a", "d"], ["1"]], "it is 'd', and task.labels are a, b"),
        ("multi_label_classification", ["a", 2], "should be a list of labels"),
    ],
)
def test_rows_that_teach_nothing_are_refused_by_number(
    name: str, bad: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = _task(name)
    for at, value in enumerate(bad):
        rows = [*ROWS[name][:2], {"text": "x", "label": value}]
        with pytest.raises(FaultError) as caught:
            task.check(_read(tmp_path / f"{at}.jsonl", rows))
        assert "1 of 3 rows have a label that cannot be learnt: 3 (counted" in str(caught.value)
        with pytest.raises(FaultError, match="the column 'label' of a row: it is"):
            task.training(rows)
        assert "3" not in caught.value.said  # how many rows there are is not said elsewhere
    with pytest.raises(FaultError) as caught:
        task.check(_read(tmp_path / "one.jsonl", [{"text": "x", "label": bad[0]}]))
    assert says in str(caught.value)


def _read(path: Path, rows: list[dict[str, Any]]) -> Dataset:
    """Return rows as they are read from a file, whose columns may hold several types."""
    path.write_text("\n".join(map(json.dumps, rows)))
    return kept.rows("json", [str(path)])


@given(st.floats(allow_nan=True) | st.integers() | st.text("0123456789.-+eE ", max_size=8))
def test_a_number_is_what_python_reads_as_a_finite_one(value: Any) -> None:
    try:
        wanted = float(value)
    except (OverflowError, ValueError):
        wanted = float("inf")
    is_finite = abs(wanted) <= float(np.finfo(np.float32).max)
    assert number(value) == (wanted if is_finite else None)


numbers = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=9)


@given(numbers)
def test_scores_of_numbers_are_in_their_bounds(pairs: list[tuple[float, float]]) -> None:
    said, true = (np.array(some) for some in zip(*pairs, strict=True))
    found = scores(said, true)
    for name, value in found.items():
        assert metrics.scale(name).least <= value <= metrics.scale(name).most
    assert found["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    ranks = scores(rankdata(said), rankdata(true))
    assert found["spearman"] == pytest.approx(ranks["pearson"], abs=1e-9)
    for broken in (said * np.nan, said + np.inf):
        assert all(map(np.isfinite, scores(broken, true).values()))
    if len({*said}) == 1 or len({*true}) == 1:
        assert found["pearson"] == 0


sets = st.integers(1, 5).flatmap(
    lambda rows: st.lists(st.tuples(*[st.booleans()] * 6), min_size=rows, max_size=rows)
)


@given(sets)
def test_scores_of_sets_are_those_of_their_definitions(rows: list[tuple[bool, ...]]) -> None:
    said, true = (np.array([row[half : half + 3] for row in rows]) for half in (0, 3))

    def f1(a: Any, b: Any) -> float:
        both, one, other = (a & b).sum(), (a & ~b).sum(), (~a & b).sum()
        return 2 * both / (2 * both + one + other) if both + one + other else 1.0

    found = label_sets.scores(said, true)
    assert (*found,) == label_sets.METRICS
    assert found["micro_f1"] == pytest.approx(f1(said, true))
    there = [k for k in range(3) if said[:, k].any() or true[:, k].any()]
    each = [f1(said[:, k], true[:, k]) for k in there] or [1.0]
    assert found["macro_f1"] == pytest.approx(np.mean(each))
    assert found["exact_match"] == np.mean(
        [(a == b).all() for a, b in zip(said, true, strict=True)]
    )


# ---- what tables say ----------------------------------------------------------------------------

SENTENCES = ["one two", "three four", "five six", "seven"] * 3


def _inferred(path: Path, words: str = "") -> Any:
    typed = (
        f"data=table data.train.path={path} task=sequence_classification model=llama-tiny {words}"
    )
    overrides, found = with_inferred(f"{typed} federation.clients=2")
    cfg = compose(overrides)
    check_values(cfg)
    return cfg, [one.shown for one in found]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_of_floats_is_a_regression(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list([{"text": t, "score": k / 2} for k, t in enumerate(SENTENCES)])
    {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[kind](path)
    cfg, shown = _inferred(path)
    assert {"task.problem_type=regression", "task.metric=pearson", "task.labels=[]"} <= {*shown}
    assert (cfg.task.label, cfg.target.metric, [*cfg.task.labels]) == ("score", "pearson", [])
    if kind != "csv":
        return
    session = open_session(compose_words(cfg, path))
    assert session.evaluate(session.theta0, session.data["test"])["mse"] > 0
    assert survey(session.task, "train", session.data["train"]).labels == {}
    trained = Trained(session.model, session.tokenizer, session.task)
    row, own = next(predicted(trained, session.data["test"]))
    assert row["prediction"] == own[0]
    assert isinstance(own[0], float)
    assert "probabilities" not in row
    # Labels that are given, or a rule for their text, are classes as before.
    for words in ('\'task.labels=["0.0","0.5"]\'', "+data.formats.score=.1f"):
        assert _inferred(path, words)[0].task.problem_type == metrics.SINGLE


def compose_words(cfg: Any, path: Path) -> str:
    texts = ",".join(cfg.task.texts)
    return (
        f"data=table data.train.path={path} data.test.share=0.3 task=regression model=llama-tiny "
        f"task.label={cfg.task.label} 'task.texts=[{texts}]' federation.clients=2"
    )


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "classes"])
def test_a_column_of_lists_is_of_several_labels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("saved" if kind == "classes" else f"rows.{kind}")
    lists = [[], ["b"], ["b", "a"], ["a"]] * 3
    found = {"text": SENTENCES, "labels": lists}
    if kind == "classes":
        found["labels"] = [[NAMES.index(one) for one in some] for some in lists]
        features = Features({"text": Value("string"), "labels": List(ClassLabel(names=NAMES))})
        Dataset.from_dict(found, features).save_to_disk(path)
    else:
        rows = Dataset.from_dict(found)
        rows.to_json(path) if kind == "jsonl" else rows.to_parquet(path)
    cfg, shown = _inferred(path)
    assert {"task.problem_type=multi_label_classification", "task.metric=micro_f1"} <= {*shown}
    assert [*cfg.task.labels] == (NAMES if kind == "classes" else ["a", "b"])
    task = _task("multi_label_classification", "task.label=labels")
    read = data.load(cfg.data, 0)["train"]
    tasks.check_rows(task, "train", read)
    assert survey(task, "train", read).labels.keys() == {"a", "b"}
    model = _model("multi_label_classification")
    row, own = next(predicted(Trained(model, task.tokens.tokenizer, task), read))
    assert row["prediction"] == [n for n in NAMES if row["probabilities"][n] > 0.5] == own[0]


def test_whole_numbers_stay_classes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": "a b", "label": k % 3}) for k in range(12)))
    assert _inferred(path)[0].task.problem_type == metrics.SINGLE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("task.problem_type=regresion", "one of .*Did you mean 'regression'"),
        ("task=regression 'task.labels=[a,b]'", r"task\.labels=.* should be \[\]"),
        ("task=multi_label_classification", "should be a list of at least one name"),
        ("task=regression target.metric=accuracy", "one of .*'mse', 'pearson', 'spearman'"),
    ],
)
def test_what_cannot_be_is_refused(words: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("premise,hypothesis,label\na,b,1\n")
    typed = (
        f"data=table data.train.path={path} data.test.path={path} model=llama-tiny "
        f"task=sequence_classification {words}"
    )
    with pytest.raises(ConfigError, match=says):
        check_values(compose(typed))
    if "problem_type" in words:
        assert with_inferred(typed) == (typed, [])  # what is wrong is said by the check


@pytest.mark.parametrize(("value", "problem"), [(0.5, "regression"), (["a"], "multi_label")])
def test_a_label_of_another_problem_says_which(value: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"premise": "a", "hypothesis": "b", "label": value}))
    with pytest.raises(ConfigError, match=f"or set task.problem_type={problem}"):
        check_values(
            compose(
                f"data=table data.train.path={path} data.test.path={path} model=llama-tiny "
                "task=sequence_classification target.metric=accuracy"
            )
        )


def test_a_head_of_one_output_is_a_number() -> None:
    assert named_outputs("here", {0: "similarity"}, []) == {0: "similarity"}
    with pytest.raises(ValueError, match=r"needs a single output: set model\.head=random"):
        named_outputs("here", {0: "no", 1: "yes"}, [])
