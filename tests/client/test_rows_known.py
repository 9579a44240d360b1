"""What a node's count of privacy knows a row by: what is on its disk, whatever a run says of it."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from flwr.app import Context, RecordDict
from omegaconf import DictConfig

from fl_app import data
from fl_app.client import budget
from fl_app.config import compose
from fl_app.data.pfl_docvqa_convert import convert
from tests import pfl_docvqa

TABLE = "data=table data.test.path=/only/on/the/server.jsonl"


def known(words: str, folder: Path) -> list[bytes]:
    """Return what the rows of a node are known by in a run of these overrides."""
    cfg = compose(words)
    own = {"partition-id": 0, "num-partitions": 10, "data-path": str(folder)}
    context = Context(1, 5, own, RecordDict(), {"overrides": words})
    rows: Dataset = data.own_rows(DictConfig(cfg.data), str(folder))
    return budget._keys(context, cfg, 0, rows)


@pytest.mark.parametrize(
    "later",
    [
        f"{TABLE} +data.train.columns.text=words",
        f"{TABLE} +data.train.columns.text=label +data.train.columns.label=text",
        "data=docvqa_mini",  # reads classes as numbers
    ],
)
def test_a_run_renames_no_row(later: str, tmp_path: Path) -> None:
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = [{"text": f"row {k}", "label": k % 2} for k in range(9)]
    Dataset.from_list(rows, kinds).save_to_disk(tmp_path / "own")
    first = known(TABLE, tmp_path / "own")
    assert known(later, tmp_path / "own") == first
    assert len(first) == 9


def test_a_rule_for_values_renames_no_row(tmp_path: Path) -> None:
    rows = [{"price": k / 4, "note": None if k % 2 else f"n{k}"} for k in range(9)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "own")
    first = known(TABLE, tmp_path / "own")
    rules = f"{TABLE} +data.formats.price=.1f +data.empty.note=none"
    assert known(rules, tmp_path / "own") == first
    assert len(first) == 9


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", "a,b\n007,x\n1.50,NA\n8,\n"),
        ("own.jsonl", '{"a": "2021-03-01", "b": 1}\n{"a": "2021-03-02", "b": 0.5}\n'),
        ("own.csv", "a,b\nx,y\nz,w\n"),
    ],
)
def test_what_rows_have_spent_when_types_were_guessed_still_counts(
    name: str, content: str, tmp_path: Path
) -> None:
    """A row is known by its digest of today and by the one that it had then, and by no other's."""
    path = tmp_path / name
    path.write_text(content)
    kind = "csv" if name.endswith("csv") else "json"
    guessed = load_dataset(kind, data_files=str(path), split="train")
    then, now = [*budget.digests(guessed)], known(TABLE, path)
    assert {*then} <= {*now}
    if {*then} == {*budget.digests(data.own_rows(compose(TABLE).data, str(path)))}:
        assert {*now} == {*then}
    first = known(f"{TABLE} data.train.limit=1", path)
    assert then[0] in first
    assert len({*first} & {*then}) == 1


def test_pages_are_the_same_as_a_table_and_with_truncated_boxes(tmp_path: Path) -> None:
    pfl_docvqa.write(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "own")
    first = known("data=pfl_docvqa", tmp_path / "own")
    assert known("data=pfl_docvqa data.truncate_boxes=true", tmp_path / "own") == first
    assert known(TABLE, tmp_path / "own") == first
    assert len(first) == 30


def test_pages_that_a_run_names_are_known_with_their_boxes_whole(tmp_path: Path) -> None:
    pfl_docvqa.write(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "own")
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 10}, RecordDict(), {})
    found = []
    for truncated in ("false", "true"):
        words = f"data=pfl_docvqa data.path={tmp_path / 'own'} data.truncate_boxes={truncated}"
        rows = budget._as_on_disk(context, compose(words), 0)
        found.append([*budget.digests(rows)])
    assert found[0] == found[1] != []
