"""What tables say: labels, texts, clients and splits become overrides, or are asked for."""

import csv
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_app import data
from fl_app.config import ConfigError, compose, identity
from fl_app.preflight import configured
from fl_app.preflight.inferred import SHARES, with_inferred

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
