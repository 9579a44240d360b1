"""What tables say: labels, texts, clients and splits become overrides, or are asked for."""

import csv
import json
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fl_app
from fl_app import data
from fl_app.config import ConfigError, compose, identity
from fl_app.preflight import configured
from fl_app.preflight.inferred import SHARES, announced, with_inferred
from fl_app.runs.configurations import digest

TASK = "task=sequence_classification"


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def made(path: Path, owners: list[str], labels: list[str], each: int = 10) -> Path:
    return write(
        path,
        [
            {"text": f"note {n} of {owner}", "label": labels[n % len(labels)], "ward": owner}
            for owner in owners
            for n in range(each)
        ],
    )


names = st.text("abcÄ ,'\"1", min_size=1, max_size=5).filter(lambda x: x.strip() == x)


@given(
    owners=st.lists(names, min_size=2, max_size=4, unique=True),
    labels=st.lists(names, min_size=2, max_size=4, unique=True),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_table_says_what_the_long_command_says(tmp_path: Path, owners, labels):
    path = made(tmp_path / "rows.csv", owners, labels)
    short, found = with_inferred(f"data=table data.train.path={path} {TASK} data.client=ward")
    cfg = compose(short)
    assert list(cfg.task.labels) == sorted(labels)
    assert list(cfg.task.texts) == ["text"]
    assert cfg.federation.clients == len(owners)
    assert (cfg.data.test.share, cfg.data.validation.share) == (
        SHARES["test"],
        SHARES["validation"],
    )
    assert len(found) == 5
    assert with_inferred(short)[1] == []  # everything is in words now
    rows = data.load(cfg.data, 0)
    clients = data.named_clients(rows["train"], cfg.data.partitioner)
    assert clients == [(owner, 10 - 2 - 1) for owner in sorted(owners)]
    for split, count in (("test", 2), ("validation", 1)):  # of each client
        assert sorted(rows[split]["ward"]) == sorted(owners * count)
    texts = [text for split in rows.values() for text in split["text"]]
    assert len({*texts}) == len(texts) == 10 * len(owners)


def test_what_is_typed_is_not_inferred(tmp_path: Path):
    path = made(tmp_path / "rows.csv", ["n", "s"], ["a", "b"])
    typed = (
        f"data=table data.train.path={path} data.test.path={path} {TASK} 'task.labels=[b,a]' "
        "'task.texts=[ward]' federation.clients=7"
    )
    assert with_inferred(typed) == (typed, [])
    for other in ("", "data=word_problems task=word_problems model=llama-tiny"):
        assert with_inferred(other) == (other, [])


def test_labels_of_a_class_keep_their_order_and_splits_their_names(tmp_path: Path):
    features = Features(
        {"sentence": Value("string"), "label": ClassLabel(names=["no", "maybe", "go"])}
    )
    rows = {"sentence": [f"s{n}" for n in range(9)], "label": [0, 1, 2] * 3}
    folder = tmp_path / "saved"
    DatasetDict(
        {name: Dataset.from_dict(rows, features) for name in ("train", "test", "validation")}
    ).save_to_disk(folder)
    cfg = compose(with_inferred(f"data=table data.train.path={folder} {TASK}")[0])
    assert list(cfg.task.labels) == ["no", "maybe", "go"]
    assert (cfg.data.test.path, cfg.data.test.split) == (str(folder), "test")
    assert (cfg.data.validation.path, cfg.data.validation.split) == (str(folder), "validation")


@pytest.mark.parametrize(
    ("row", "words", "says"),
    [
        ({"one": "a", "two": "b", "label": "x"}, "", "which column .* is the text.*one, two"),
        ({"text": "a", "kind": "x"}, "", "which of its columns is the label.*text, kind"),
        ({"text": "a", "label": "x", "ward": "n"}, "data.client=wrd", "no column 'wrd'.*'ward'"),
        (
            {"text": "a", "label": "x", "ward": "n"},
            "data.client=ward data.partitioner.id=iid",
            "leave out data.partitioner",
        ),
        ({"text": "a", "label": "x"}, "", "1 different values.*at least two"),
    ],
)  # fmt: skip
def test_what_is_open_is_asked_for(row, words, says, tmp_path: Path):
    path = write(tmp_path / "rows.csv", [row] * 12)
    with pytest.raises(ConfigError, match=says):
        with_inferred(f"data=table data.train.path={path} {TASK} {words}")


def test_an_identifier_is_no_label(tmp_path: Path):
    path = write(tmp_path / "rows.csv", [{"text": f"t{n}", "label": n} for n in range(300)])
    with pytest.raises(ConfigError, match="300 different values"):
        with_inferred(f"data=table data.train.path={path} {TASK}")


def test_where_no_data_are_seen_they_are_asked_for(tmp_path: Path):
    path = made(tmp_path / "rows.csv", ["n", "s"], ["a", "b"])
    with pytest.raises(ConfigError, match=r"set federation\.clients, and start each node"):
        configured(f"data=table data.test.path={path} {TASK} data.client=ward model=llama-tiny")


def test_ten_words_are_a_run(tmp_path: Path, monkeypatch, capsys, caplog):
    made(tmp_path / "rows.csv", ["n", "s"], ["a", "b"])
    monkeypatch.chdir(tmp_path)
    typed = f"model=org/model data=rows.csv {TASK} data.client=ward"
    overrides, cfg = configured(typed)
    assert "inferred: 2 clients: n, s" in capsys.readouterr().out
    monkeypatch.chdir("/")
    assert identity(compose(overrides)) == identity(cfg)  # the same from anywhere
    configured(f"{overrides} data.test.share=null data.test.path={tmp_path / 'rows.csv'}")
    assert "the rows that clients train on" in caplog.text


def test_reading_tables_imports_no_torch(tmp_path: Path):
    import subprocess

    path = made(tmp_path / "rows.csv", ["n", "s"], ["a", "b"])
    words = f"data=table data.train.path={path} {TASK} data.client=ward"
    code = (
        "import sys; from fl_app.preflight.inferred import with_inferred; "
        f"with_inferred({words!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def rows(**more: object) -> list[dict[str, object]]:
    """Return rows as people have them: a number, a text, a label, and whose it is."""
    return [
        {"id": str(n), "note": f"fever {n}", "label": "ab"[n % 2], "ward": "ns"[n % 2], **more}
        for n in range(12)
    ]


def test_numbers_dates_and_ids_are_no_texts(tmp_path: Path):
    path = write(tmp_path / "rows.csv", rows(age="61", day="2026-01-31", patient_id="P7"))
    cfg = compose(with_inferred(f"data=table data.train.path={path} {TASK} data.client=ward")[0])
    assert list(cfg.task.texts) == ["note"]


def test_labels_of_numbers_stand_in_their_order(tmp_path: Path):
    """In which the outputs of a head without names are."""
    found = [{"text": "a", "label": n % 12} for n in range(24)]
    path = write(tmp_path / "rows.csv", found)
    cfg = compose(with_inferred(f"data=table data.train.path={path} {TASK}")[0])
    assert list(cfg.task.labels) == [str(n) for n in range(12)]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["neutral", "entailment"], "'task.texts=[one,two]'"),
        (["0", "2"], "'task.texts=[one,two]' task.label_is=index"),
    ],
)
def test_labels_that_conf_has_mean_what_they_did(labels, words, tmp_path: Path):
    found = [{"one": "a", "two": "b", "label": label} for label in labels]
    path = write(tmp_path / "rows.csv", found)
    typed = f"data=table data.train.path={path} data.test.path={path} {TASK} {words}"
    assert with_inferred(typed) == (typed, [])


def test_the_label_is_the_only_column_of_classes_or_the_only_one_left(tmp_path: Path):
    features = Features({"s": Value("string"), "Y": ClassLabel(names=["no", "yes"])})
    folder = tmp_path / "saved"
    Dataset.from_dict({"s": ["a", "b"], "Y": [0, 1]}, features).save_to_disk(folder)
    cfg = compose(with_inferred(f"data=table data.train.path={folder} {TASK}")[0])
    assert (cfg.task.label, list(cfg.task.texts)) == ("Y", ["s"])
    path = write(
        tmp_path / "rows.csv", [{"id": n, "say": "a", "kind": "xy"[n % 2]} for n in (1, 2)]
    )
    words = f"data=table data.train.path={path} {TASK} 'task.texts=[say]'"
    assert compose(with_inferred(words)[0]).task.label == "kind"


@pytest.mark.parametrize(
    ("task", "value"), [("regression", "1.5"), ("multi_label_classification", ["a", "b"])]
)
def test_the_label_is_the_only_column_of_what_the_problem_needs(task, value, tmp_path: Path):
    rows = [{"id": n, "note": f"cough {n}", "found": value} for n in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = compose(with_inferred(f"data=table data.train.path={path} task={task}")[0])
    assert (cfg.task.label, list(cfg.task.texts)) == ("found", ["note"])


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    test=st.floats(0.05, 0.95), validation=st.floats(0.05, 0.95),
)  # fmt: skip
@settings(max_examples=25)
def test_every_client_keeps_a_row_and_every_row_is_in_one_split(sizes, test, validation):
    sites = [f"s{k}" for k, size in enumerate(sizes) for _ in range(size)]
    train = Dataset.from_dict({"site": sites, "at": [*range(len(sites))]})
    parts = []
    for split, share in (("test", test), ("validation", validation)):
        try:
            train, drawn = data.table._shared(train, split, share, 0, "site")
        except ValueError:  # it would leave no row for the split
            continue
        parts.append(drawn)
    assert {*train["site"][:]} == {*sites}
    assert sorted(at for part in (train, *parts) for at in part["at"][:]) == [*range(len(sites))]


def test_python_composes_the_ten_words_too(tmp_path: Path, monkeypatch):
    made(tmp_path / "rows.csv", ["n", "s"], ["a", "b"])
    monkeypatch.chdir(tmp_path)
    short = fl_app.compose(f"model=org/model data=rows.csv {TASK} data.client=ward")
    long = (
        f"model=huggingface model.path=org/model data=table data.train.path={tmp_path}/rows.csv "
        f"{TASK} 'task.texts=[text]' 'task.labels=[a,b]' federation.clients=2 data.client=ward "
        "'data.partitioner={id: client_column, column: ward}' data.test.share=0.2 "
        "data.validation.share=0.1"
    )
    assert short == compose(long)
    assert digest(short) == digest(compose(long))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([["a"], ["b"]], "lists of lists"),
        ([{"id": 1}], "lists of mappings"),
        ([0.5, 1.5], "lists of floats"),
    ],
)
def test_lists_of_what_are_no_labels_are_refused(tmp_path: Path, labels, says) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "a note", "labels": labels}) + "\n" for _ in "ab"))
    with pytest.raises(ConfigError, match=f"the column 'labels' holds {says}: a label is"):
        with_inferred(f"data=table data.train.path={path} {TASK}")


def test_a_missing_label_in_a_list_is_no_name_of_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a note", "label": ["a", null]}\n{"text": "b", "label": ["b"]}\n')
    words, _ = with_inferred(f"data=table data.train.path={path} {TASK}")
    assert list(compose(words).task.labels) == ["a", "b"]


def test_what_a_table_says_is_printed_as_harmless_text(tmp_path: Path, capsys) -> None:
    write(tmp_path / "rows.csv", [{"\x1b[2Jtext": f"a note {k}", "label": k % 2} for k in range(9)])
    announced(f"data=table data.train.path={tmp_path}/rows.csv {TASK}")
    assert "\x1b" not in (said := capsys.readouterr().out)
    assert "inferred: task.texts=\\x1b[2Jtext" in said


def test_a_column_that_names_no_client_is_said(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", [{"text": "a note", "label": k, "ward": ""} for k in range(2)])
    with pytest.raises(ConfigError, match="no row of data"):
        with_inferred(f"data=table data.train.path={tmp_path}/rows.csv {TASK} data.client=ward")
