"""What a start says of a table's columns, from its header and first rows."""

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from fl_app.config import ConfigError, compose
from fl_app.data.readers import objects
from fl_app.preflight import check_values
from fl_app.tasks import first_rows

ROW = {"instruction": "a", "output": "b", "site": "x", "price": 1.5, "list": [1]}


def _words(tmp_path: Path, rows: list[dict], kind: str = "jsonl", overrides: str = "") -> str:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        Dataset.from_list(rows).to_csv(path, index=False)
    elif kind == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    else:
        Dataset.from_list(rows).to_parquet(path)
    return (
        "data=table model=huggingface model.path=organisation/name task=causal_lm "
        f"target.metric=accuracy data.train.path={path} data.test.path={path} {overrides}"
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
def test_columns_that_exist_pass(kind: str, tmp_path: Path) -> None:
    rows = [ROW | {"list": "x"}] if kind == "csv" else [ROW]
    check_values(compose(_words(tmp_path, rows, kind)))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("task.reference=ouput", "task.reference names the column 'ouput', which data.train.path="),
        ("task.reference=ouput", "Did you mean 'output'?"),
        ("task.average_over=sites", "task.average_over names the column 'sites'"),
        ("'task.prompt=\"{instuction}\"'", "task.prompt names the column 'instuction'"),
        ("data.partitioner.id=by_column data.partitioner={column:sit}", "data.partitioner.column"),
        ("+data.test.columns.q=a", "data.test.columns names q; the columns are instruction"),
        ("+data.test.drop.q=[a]", "data.test.drop names q; the columns are instruction"),
    ],
)
def test_a_misspelt_column_is_said_at_the_start(
    kind: str, overrides: str, says: str, tmp_path: Path
) -> None:
    rows = [ROW | {"list": "x"}] if kind == "csv" else [ROW]
    overrides = overrides.replace("data.partitioner={column:sit}", "+data.partitioner.column=sit")
    with pytest.raises(ConfigError) as caught:
        check_values(compose(_words(tmp_path, rows, kind, overrides)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("price", "task.reference, in data.train: the column 'price' holds floats: say how they "),
        ("price", "+data.formats.price='.2f'"),
        ("list", "the column 'list' holds lists: name a column of texts"),
    ],
)
def test_what_is_no_text_is_said_at_the_start(
    kind: str, column: str, says: str, tmp_path: Path
) -> None:
    words = _words(tmp_path, [ROW], kind, f"task.reference={column}")
    with pytest.raises(ConfigError) as caught:
        check_values(compose(words))
    assert says in str(caught.value)
    check_values(compose(f"{words} +data.formats.{column}=.2f"))


def test_a_key_that_comes_later_may_be_missing_first(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "site": "none"}] * 200 + [ROW]
    words = _words(tmp_path, rows)
    with pytest.raises(ConfigError, match="names the column 'output'"):
        check_values(compose(words))
    drop = "+data.train.drop.site=[none] +data.test.drop.site=[none]"
    check_values(compose(f"{words} {drop}"))
    check_values(compose(f"{words} +data.empty.output=none"))


def test_a_start_reads_the_first_rows_alone(tmp_path: Path) -> None:
    words = _words(tmp_path, [ROW] * 200)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(f"\n{{damaged{' ' * 3 * objects.PIECE}")
    check_values(compose(words))


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ({"instruction": "a", "output": "b", "context": "c"}, "the column 'context' of Dolly"),
        ({"instruction": "a", "output": "b", "system": "c"}, "the column 'system' of Alpaca"),
        ({"instruction": "a", "output": "b", "input": "c"}, None),  # the default prompt has it
        ({"instruction": "a", "output": "b", "context": ""}, None),
        ({"instruction": "a", "output": "b", "source": "c"}, None),
    ],
)
def test_columns_that_no_template_names_are_said_once(
    row: dict, left: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="thinwire"):
        first_rows.check(compose(_words(tmp_path, [row])))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (left is not None)
    assert all(str(left) in one for one in said)


def test_a_prompt_of_ones_own_without_input_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = _words(tmp_path, [ROW | {"input": "x"}], overrides="'task.prompt=\"{instruction}\"'")
    first_rows.check(compose(words))
    assert "the column 'input' of Alpaca" in caplog.text


def test_renamed_columns_are_known_by_their_own_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": "a", "context": "c", "answer": "b"}]
    names = " ".join(
        f"+data.{split}.columns.question=instruction +data.{split}.columns.answer=output"
        for split in ("train", "test")
    )
    first_rows.check(compose(_words(tmp_path, rows, overrides=names)))
    assert "the column 'context' of SQuAD" in caplog.text


def test_cells_that_are_divided_by_something_else_are_said(tmp_path: Path) -> None:
    words = _words(tmp_path, [ROW | {"list": "x"}], "csv")
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace(",", ";"))
    with pytest.raises(ConfigError, match="divided by ';': use commas"):
        check_values(compose(words))


def test_files_of_a_folder_that_no_split_has_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "rows"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("train.csv", "test.csv", "more.csv", "more.jsonl", ".hidden/train.csv"):
        (folder / name).write_text("instruction,output\na,b\n")
    (folder / "dataset_info.json").write_text("{}")
    words = _words(tmp_path, [ROW]).replace("rows.jsonl", "rows")
    first_rows.check(compose(f"{words} data.test.split=test"))
    assert len(caplog.records) == 1
    assert f"{folder}/more.csv, {folder}/more.jsonl" in caplog.text
    assert all(name not in caplog.text for name in (".hidden", "test.csv", "info"))
