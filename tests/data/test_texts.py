"""Rules by which values that are no texts become texts, and which rows are dropped."""

import datetime as dt
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from fl_app import data
from fl_app.config import ConfigError, compose
from fl_app.data import table
from fl_app.data.kinds import TEXTS
from fl_app.data.texts import Rules, kinds, missing
from fl_app.preflight import check

DAY = dt.date(2021, 3, 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _applied(values: list[Any], formats: str | None = None, empty: str | None = None) -> list[Any]:
    rules = Rules(
        {} if formats is None else {"a": formats, "absent": "x"},
        {} if empty is None else {"a": empty},
    )
    return rules.applied(Dataset.from_dict({"a": values, "b": [1] * len(values)}))["a"][:]


@pytest.mark.parametrize(
    ("values", "formats", "texts"),
    [
        ([1.5, 0.1 + 0.2, None], ".2f", ["1.50", "0.30", None]),
        ([5, 12], ".1f", ["5.0", "12.0"]),
        ([DAY, None], "%d.%m.%Y", ["01.03.2021", None]),
        ([dt.datetime(2021, 3, 1, 7, 5)], "%H:%M", ["07:05"]),
        ([True, False, None], "yes|no", ["yes", "no", None]),
        (["007", "1.50", "", None], ".2f", ["007", "1.50", "", None]),
    ],
)
def test_a_rule_writes_values_as_texts(values: Any, formats: str, texts: Any) -> None:
    assert _applied(values, formats) == texts
    assert _applied(values, formats, "?") == ["?" if text is None else text for text in texts]


@given(st.lists(st.text(max_size=3) | st.none(), min_size=1, max_size=6))
def test_an_empty_value_is_written_as_the_configuration_says(values: list[str | None]) -> None:
    assert _applied(values, empty="none") == ["none" if v is None else v for v in values]


def test_a_number_that_is_none_is_a_missing_value() -> None:
    assert _applied([float("nan"), 1.0], ".0f", "?") == ["?", "1"]
    rows = Dataset.from_dict({"a": [float("nan"), 1.0, None], "b": ["", None, "x"]})
    assert missing(rows, "a") == [0, 2]
    assert missing(rows, "b") == [1]


def test_integers_with_missing_values_stay_integers() -> None:
    assert _applied([5, None], empty="") == ["5", ""]
    assert _applied([1.5, None], empty="") == [1.5, None]  # still no text, and refused later


@pytest.mark.parametrize(
    ("values", "formats"),
    [
        ([1.5], "%Y"),
        ([DAY], ".2f"),
        ([DAY], "0"),
        ([True], ".2f"),
        ([[1]], ".2f"),
        ([1.5], "yes|no"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_refused(values: Any, formats: str) -> None:
    with pytest.raises(ValueError, match=r"data\.formats\.a=.*cannot write"):
        _applied(values, formats)


def test_kinds_are_those_of_the_values() -> None:
    columns = {
        "strings": ["a"], "integers": [1], "floats": [1.5], "booleans": [True], "dates": [DAY],
        "lists": [[1]], "mappings": [{"x": 1}], "bytes": [b"a"],
    }  # fmt: skip
    rows = Dataset.from_dict(columns)
    assert {name: kinds(rows, name) for name in columns} == {name: {name} for name in columns}
    assert {*TEXTS} == {"strings", "integers"}


def _csv(tmp_path: Path, text: str) -> str:
    (tmp_path / "rows.csv").write_text(text)
    path = tmp_path / "rows.csv"
    return f"data=table data.train.path={path} data.test.path={path}"


def test_rules_are_for_all_splits_and_nodes(tmp_path: Path) -> None:
    words = _csv(tmp_path, "q,a\n1,\n2,b\n") + " data.empty={a:none}"
    cfg = compose(words)
    assert data.load(cfg.data, 0)["test"]["a"][:] == ["none", "b"]
    assert data.own_rows(cfg.data, str(tmp_path / "rows.csv"))["a"][:] == ["none", "b"]
    wrong = compose(words.replace("{a:", "{answer:"))
    with pytest.raises(ValueError, match=r"data\.empty names answer; the columns are a, q"):
        data.load(wrong.data, 0)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("data.formats=.2f", "data.formats='.2f' should be of type mapping"),
        ("+data.formats.price=2", "such as .2f"),
        ("+data.empty.price=null", "a mapping of columns to texts"),
    ],
)
def test_rules_are_checked_beforehand(overrides: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(f"{_csv(tmp_path, 'a')} model=llama-tiny task=causal_lm {overrides}"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("drop", "kept"),
    [
        ("[7]", ["007", "-1", "NA", None]),
        ("[-1]", ["7", "007", "NA", None]),
        ("[NA]", ["7", "007", "-1", None]),
        ("[null]", ["7", "007", "-1", "NA"]),
    ],
)
def test_cells_are_dropped_by_what_is_written(drop: str, kept: Any, tmp_path: Path) -> None:
    words = _csv(tmp_path, "a,b\n7,1\n007,1\n-1,1\nNA,1\n,1\n")
    assert data.load(compose(f"{words} +data.train.drop.a={drop}").data, 0)["train"]["a"][:] == kept


def test_a_number_that_no_text_is_written_like_is_refused(tmp_path: Path) -> None:
    words = _csv(tmp_path, "a\n1.50\n")
    with pytest.raises(ValueError, match=r"names 1\.5, and the column holds texts: quote it"):
        data.load(compose(f"{words} +data.train.drop.a=[1.50]").data, 0)


def test_true_is_no_number(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"a": [1, 0]})
    assert table._without("data.train", rows, {"a": [True]})["a"][:] == [1, 0]
    assert table._without("data.train", rows, {"a": [1]})["a"][:] == [0]
