"""Rows from files of every format that is read, and what is said where they cannot be."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from fl_app import data
from fl_app.config import CONF_DIR, ConfigError, compose
from fl_app.data import paths, table
from fl_app.preflight import check

ROWS = [{"question": f"what is {n}, 'and' \"so\"?\nNA", "answer": f"NA {n}"} for n in range(10)]

ASKS = (
    "task=causal_lm 'task.prompt=\"{question}\"' 'task.response=\"{answer}\"' task.reference=answer"
)
MODEL = "model=huggingface model.path=organisation/name"  # of the hub, which is not asked here


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _cfg(path: Path | str, overrides: str = "", test: Path | str | None = None) -> DictConfig:
    paths = f"data.train.path={path} data.test.path={path if test is None else test}"
    return compose(f"data=table task=causal_lm {paths} {overrides}").data


def _train(path: Path | str, overrides: str = "") -> Dataset:
    return data.load(_cfg(path, overrides), seed=0)["train"]


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _csv(path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def _json(path: Path) -> Path:
    path.write_text(json.dumps(ROWS))
    return path


def _parquet(path: Path) -> Path:
    Dataset.from_list(ROWS).to_parquet(path)
    return path


def _saved(path: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(path)
    return path


def _saved_splits(path: Path) -> Path:
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(path)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    _json_lines(path / "train.jsonl", ROWS)
    _json_lines(path / "test.jsonl", ROWS[:2])
    return path


SOURCES = {
    "rows.csv": _csv,
    "rows.json": _json,
    "rows.jsonl": lambda path: _json_lines(path, ROWS),
    "rows.parquet": _parquet,
    "saved": _saved,
    "saved_splits": _saved_splits,
    "folder": _folder,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = SOURCES[name](tmp_path / name)
    paths = f"data.train.path={path} data.test.path={path}"
    check(compose(f"{MODEL} data=table {ASKS} target.metric=accuracy {paths}"))
    loaded = data.load(_cfg(path), seed=0)
    assert {*loaded} == {"train", "test"}
    assert loaded["train"].to_list() == ROWS
    renamed = _train(path, "+data.train.columns.question=instruction data.train.limit=3")
    assert renamed["instruction"][:] == [row["question"] for row in ROWS[:3]]
    assert renamed["answer"][:] == [row["answer"] for row in ROWS[:3]]
    part = _train(path, "'data.train.split=\"train[20%:50%]\"'")
    assert part.to_list() == ROWS[2:5]


def test_a_folder_has_splits_and_each_of_ours_its_own_source(tmp_path: Path) -> None:
    folder, other = _folder(tmp_path / "folder"), _csv(tmp_path / "rows.csv")
    cfg = _cfg(folder, f"data.test.split=test data.unseen.path={other} data.unseen.limit=1")
    loaded = data.load(cfg, seed=0)
    assert [loaded[split].to_list() for split in ("train", "test", "unseen")] == [
        ROWS,
        ROWS[:2],
        ROWS[:1],
    ]


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_share_is_drawn_from_the_train_rows(count: int, share: float, seed: int) -> None:
    """The two parts cover the rows, each in its order, the same on every machine."""
    train = Dataset.from_list([{"row": n} for n in range(count)])
    drawn = round(share * count)
    if not 0 < drawn < count:
        with pytest.raises(ValueError, match=r"data\.validation\.share=.*leaves no row for"):
            table._shared(train, "validation", share, seed, None)
        return
    parts = [part["row"][:] for part in table._shared(train, "validation", share, seed, None)]
    assert [len(part) for part in parts] == [count - drawn, drawn]
    assert sorted([*parts[0], *parts[1]]) == [*range(count)]
    assert all(part == sorted(part) for part in parts)
    assert parts == [
        part["row"][:] for part in table._shared(train, "validation", share, seed, None)
    ]


def test_validation_rows_are_given_or_a_share_of_the_train_rows(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "rows.jsonl", ROWS)
    given_ = data.load(_cfg(path, f"data.validation.path={path} data.validation.limit=3"), seed=0)
    assert given_["train"].to_list() == ROWS
    assert given_["validation"].to_list() == ROWS[:3]
    found = [
        data.load(_cfg(path, f"data.validation.share=0.3 data.seed={seed}"), seed=run)
        for seed, run in ((0, 0), (0, 1), (1, 0))
    ]
    parts = [(one["train"].to_list(), one["validation"].to_list()) for one in found]
    assert parts[0] == parts[1] != parts[2]
    assert found[0]["test"].to_list() == ROWS
    own = data.own_rows(_cfg(path, "data.validation.share=0.3"), str(path))
    assert own.to_list() == ROWS  # a node's own rows stay whole


def test_columns_can_swap_names(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "rows.jsonl", ROWS)
    swap = "+data.train.columns.question=answer +data.train.columns.answer=question"
    assert _train(path, swap)["answer"][:] == [row["question"] for row in ROWS]


def test_classes_get_their_names_and_those_without_can_be_dropped(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "class": ClassLabel(names=["no", "yes"])})
    rows = {"text": list("abcd"), "class": [1, -1, 0, None]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    whole = _train(tmp_path / "saved")
    assert whole["class"][:] == ["yes", None, "no", None]
    kept = _train(
        tmp_path / "saved",
        "+data.train.columns.class=label +data.train.drop.label=[null] data.train.limit=2",
    )
    assert kept.to_list() == [{"text": "a", "label": "yes"}, {"text": "c", "label": "no"}]
    dropped = _train(tmp_path / "saved", "+data.train.drop.class=[yes,null]")
    assert dropped["text"][:] == ["c"]


def test_loading_again_gives_the_same(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "rows.jsonl", ROWS)
    assert _train(path).to_list() == _train(path).to_list()
    _json_lines(path, ROWS[:4])  # what is cached is not what is there
    assert _train(path).to_list() == ROWS[:4]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("data.train.split=dev", r"data\.train\.split='dev' should be one of train"),
        ("'data.train.split=\"train[:x]\"'", r"data\.train\.split.*train\[:90%\]"),
        ("+data.train.columns.text=output", "names text; the columns are question, answer"),
        ("+data.train.drop.text=[a]", "names text; the columns are question, answer"),
        ("+data.train.columns.question=answer", "two columns answer of question, answer"),
        ("'data.train.split=\"train[:0%]\"'", "data.train has no rows"),
    ],
)
def test_mistakes_name_what_there_is(overrides: str, says: str, tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match=says):
        _train(path, overrides)


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("a")
    for path in (tmp_path / "nothing.csv", "rows.csv/x/y", "./rows.csv"):
        with pytest.raises(FileNotFoundError, match=r"data\.train\.path=.*absolute path"):
            _train(path)
    for path in (tmp_path / "empty", "organisation/name"):
        with pytest.raises(FileNotFoundError, match="no data files, or is a data set of the hub"):
            _train(path)
    with pytest.raises(ValueError, match=r"notes\.md' should end in \.csv, \.json"):
        _train(tmp_path / "notes.md")


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
def test_an_empty_file_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}' cannot be read: it is empty"):
        _train(tmp_path / name)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.json", b'{"a": '), ("b.parquet", b"PAR1 no"), ("c.csv", b'a\n"')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' cannot be read"):
            _train(tmp_path / name)


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.xml").write_text("a")
    with pytest.raises(ValueError, match="has the format xml; supported are arrow, csv"):
        _train(tmp_path)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("bomb-went-off"),))


def test_data_bring_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.pkl", "rows.pickle", "rows.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
        with pytest.raises(ValueError, match="should end in"):
            _train(tmp_path / name)
    for name, file in (
        ("pickles", "train.pkl"),
        ("script", "script.py"),
        ("markup", "train.xml"),
    ):
        (tmp_path / name).mkdir()
        script = "from pathlib import Path\nPath('bomb-went-off').touch()\n"
        content = script.encode() if file != "train.pkl" else pickle.dumps(_Bomb())
        (tmp_path / name / file).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=r"data\.train\.path"):
            _train(tmp_path / name)
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize("name", ["metamathqa_gsm8k", "metamathqa_math", "commonsense", "snli"])
def test_the_published_data_are_configured_whole(name: str, tmp_path: Path) -> None:
    assert (CONF_DIR / "data" / f"{name}.yaml").is_file()
    columns = {
        "metamathqa_gsm8k": ("query response", "question answer"),
        "metamathqa_math": ("query response", "instruction output"),
        "commonsense": ("instruction output", "instruction output"),
        "snli": ("premise hypothesis label", "premise hypothesis label"),
    }
    train, test = (
        _json_lines(tmp_path / f"{k}.jsonl", [dict.fromkeys(names.split(), "x")])
        for k, names in enumerate(columns[name])
    )
    task = "sequence_classification" if name == "snli" else "gsm8k"
    paths = f"data.train.path={train} data.test.path={test}"
    check(compose(f"{MODEL} data={name} task={task} target.metric=accuracy {paths}"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("data=table", "data.train.path=None"),
        ("data=commonsense", "data.train.path=None"),
        (
            "data=snli data.unseen.path=/no/such/file",
            "absolute path of a file or folder that exists",
        ),
        ("data=snli data.validation.path=null data.validation.share=1", "null or in (0, 1)"),
        ("data=snli data.validation.share=0.1", "should be null with data.validation.path=stan"),
        ("data=commonsense data.validation.share=0.1", "a share of data.train.path, which is null"),
        ("data=snli data.train.limit=0", "greater than 0"),
        ("data=snli data.train.limit=1.5", "whole number"),
        ("data=snli data.test.split=''", "the name of a split"),
        ("data=snli +data.test.columns.label=1", "names to names"),
        ("data=snli data.test.columns=label", "mapping"),
        ("data=snli data.colour=1", "Keys of data: ['client', 'empty'"),
        ("data=snli data.train.colour=1", "Keys of data.train: ['columns'"),
        (
            "data=snli data.partitioner.id=dirichlet",
            "needs data.partitioner.column and data",
        ),
    ],
)
def test_the_configuration_is_checked_beforehand(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(f"{MODEL} {overrides} task=sequence_classification target.metric=accuracy"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "pandas", "csv", "json", "imagefolder", "webdataset", "http://host/x.csv",
        "hf://datasets/a/b", "s3://a/b.csv", "zip://x.csv::http://host/x.zip", "x.csv::http://host",
        "file:///etc/passwd", "../x", "~/x", "a/b/c", "a/../b", "/x\0y", "", 3,
    ],
)  # fmt: skip
def test_a_url_a_chain_or_a_format_is_no_source(name) -> None:
    assert not paths.is_source_name(name)


def test_a_hub_id_does_not_mean_a_folder_that_happens_to_be_here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.is_source("organisation/rows")
    Path("organisation/rows").mkdir(parents=True)
    assert not paths.is_source("organisation/rows")


@pytest.mark.parametrize("escape", ["../secret.csv", "ABSOLUTE"])
def test_a_folder_does_not_name_files_outside_of_it(tmp_path: Path, escape: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("question,answer\na,b\n")
    folder = tmp_path / "shared"
    folder.mkdir()
    named = str(secret) if escape == "ABSOLUTE" else escape
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {named}\n---\n"
    (folder / "README.md").write_text(readme)
    with pytest.raises(ValueError, match="names files that are not in it"):
        table.source("data.train.path", str(folder))
    (folder / "own.csv").write_text("question,answer\nc,d\n")
    (folder / "README.md").write_text(readme.replace(named, "own.csv"))
    assert table.source("data.train.path", str(folder))["train"][0]["question"] == "c"


def test_pictures_are_left_out_since_one_is_opened_where_a_row_says(tmp_path: Path) -> None:
    rows = Dataset.from_dict(
        {"text": ["a"], "page": [{"path": "/etc/hostname", "bytes": None}]},
        features=Features({"text": Value("string"), "page": Image()}),
    )
    rows.to_parquet(tmp_path / "rows.parquet")
    assert table.source("x", str(tmp_path / "rows.parquet"))["train"].to_list() == [{"text": "a"}]
    rows.save_to_disk(tmp_path / "saved")
    assert table.source("x", str(tmp_path / "saved"))["train"].column_names == ["text"]
