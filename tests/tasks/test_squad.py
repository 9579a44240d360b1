"""SQuAD's rows: the first answer is taught, each is right, and rows without one need a text."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from fl_app import data, tasks
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check_values
from tests import architectures

ASKED = {"question": "who?", "context": "A cat and a dog."}
ROW = ASKED | {"answers": {"text": ["a cat", "the cat"], "answer_start": [0, 0]}}
NONE = ASKED | {"answers": {"text": [], "answer_start": []}}
KINDS = {"squad": ("llama", "<s> $A"), "squad_seq2seq": ("t5", "$A </s>")}


def _task(name: str, overrides: str = "") -> Any:
    kind, template = KINDS[name]
    cfg = compose(f"task={name} model.max_length=200 model.max_answer_length=40 {overrides}")
    return tasks.build(cfg, architectures.tokenizer(template), architectures.config(kind))


@pytest.mark.parametrize("name", KINDS)
def test_the_first_answer_is_taught_and_each_is_right(name: str) -> None:
    task = _task(name, "task.unanswerable=none")
    one = task.training([ROW])
    other = task.training([ROW | {"answers": {"text": ["a cat"], "answer_start": [0]}}])
    assert all(one[key].equal(other[key]) for key in one)
    said = [token for token in one["labels"][0].tolist() if token >= 0]
    assert task.tokenizer.decode(said, skip_special_tokens=True).strip() == "a cat"
    right = task.score(["The cat", "A cat", "a dog", "none"], [ROW, ROW, ROW, NONE])
    assert right["accuracy"] == 0.75
    task.check(Dataset.from_list([ROW, NONE]))


def test_rows_without_an_answer_are_counted() -> None:
    with pytest.raises(
        FaultError, match=r"2 of 3 rows have no answer in the column 'answers'.*2, 3"
    ):
        _task("squad").check(Dataset.from_list([ROW, NONE, NONE]))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_answers_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list([ROW, NONE, ROW])
    {"jsonl": rows.to_json, "parquet": rows.to_parquet, "saved": rows.save_to_disk}[kind](path)
    table = f"model=llama-tiny data=table data.train.path={path} data.test.path={path}"
    cfg = compose(f"{table} task=squad target.metric=accuracy")
    check_values(cfg)
    assert json.dumps(data.load(cfg.data, 0)["test"].to_list()) == json.dumps([ROW, NONE, ROW])
    with pytest.raises(ConfigError, match="those of SQuAD: use task=squad"):
        check_values(compose(f"{table} task=causal_lm target.metric=accuracy"))
    with pytest.raises(ConfigError, match=r"needs task\.id=causal_lm, not seq2seq"):
        check_values(compose(f"{table} task=squad task.id=seq2seq target.metric=accuracy"))
