"""Laws of the readers: a value is what the file says, and a file is read in pieces."""

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Json, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_app.data import kept
from fl_app.data.readers import READERS, objects

ON_FIXTURES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
LIKE_OTHERS = st.sampled_from(
    ["007", "1.50", "5", "NA", "null", "None", "nan", "2021-03-01", "true", "9" * 23, " x ", "1e5"]
)
CELLS = TEXTS | LIKE_OTHERS
VALUES = {
    "texts": CELLS,
    "integers": st.integers(-(2**63), 2**63 - 1),
    "booleans": st.booleans(),
    "floats": st.floats(allow_nan=False, allow_infinity=False),
    "texts or integers": CELLS | st.integers(-100, 100),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _read(reader: str, path: Path) -> list[dict[str, Any]]:
    return list(kept.rows(reader, [str(path)]))


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@ON_FIXTURES
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_a_cell_of_csv_is_a_text_as_it_is_written(
    quoting: Any, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=quoting).writerows([("a", "b"), *rows])
    assert _read("csv", path) == [{"a": a or None, "b": b or None} for a, b in rows]


def test_a_long_cell_is_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    path, limit = tmp_path / "rows.csv", csv.field_size_limit()
    path.write_text(f"a\n{'x' * (limit + 1)}\n")
    assert _read("csv", path) == [{"a": "x" * (limit + 1)}]
    assert csv.field_size_limit() == limit


LINES = st.lists(
    st.sampled_from(["a", " b ", "", "  ", "c\td", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@ON_FIXTURES
@given(LINES)
def test_a_text_is_read_by_line_paragraph_or_document(
    end: str, tmp_path: Path, lines: list[str]
) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(end.join(lines).encode())
    plain = "\n".join("" if not one.strip() else one for one in lines)
    filled = [one for one in lines if one.strip()]
    paragraphs = [one.strip("\n") for one in plain.split("\n\n") if one.strip()]
    assert [row["text"] for row in _read("line", path)] == filled
    assert [row["text"] for row in _read("paragraph", path)] == paragraphs
    (whole,) = [row["text"] for row in _read("document", path)] or [""]
    assert [one for one in whole.split("\n") if one.strip()] == filled
    assert not filled or (whole.split("\n")[0], whole.split("\n")[-1]) == (filled[0], filled[-1])


def test_paragraphs_are_those_of_datasets(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("a\nb\n\nc\n\n\n\nd")
    known = datasets.load_dataset(
        "text", data_files=str(path), sample_by="paragraph", split="train", cache_dir=str(tmp_path)
    )
    assert _read("paragraph", path) == list(known)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("form", ["list", "lines", "indented"])
@ON_FIXTURES
@given(st.data())
def test_a_value_of_json_keeps_its_type(kind: str, form: str, tmp_path: Path, data: Any) -> None:
    values = data.draw(st.lists(VALUES[kind] | st.none(), min_size=1, max_size=5))
    rows = [{"a": value, "b": "x"} for value in values]
    path = tmp_path / "rows.json"
    lines = "\n".join(map(json.dumps, rows))
    whole = json.dumps(rows, indent=1 if form == "indented" else None)
    path.write_text(lines if form == "lines" else whole)
    found = [row["a"] for row in _read("json", path)]
    assert found == values
    assert [*map(type, found)] == [*map(type, values)]


@given(piece=st.integers(1, 40))
@ON_FIXTURES
def test_pieces_of_json_do_not_matter(piece: int, tmp_path: Path) -> None:
    row = {"a": 'b"\\ü\n{[', "f": 1.5, "t": True, "l": [{"x": None}]}
    rows = [{**row, "n": number} for number in range(9)]
    before, objects.PIECE = objects.PIECE, piece
    try:
        for text in (json.dumps(rows), "".join(f"{json.dumps(row)}\r\n" for row in rows)):
            (tmp_path / "rows.json").write_text(text)
            assert list(objects._rows(str(tmp_path / "rows.json"))) == rows
    finally:
        objects.PIECE = before


def test_integers_of_any_size_are_their_digits(tmp_path: Path) -> None:
    large = 12345678901234567890123
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": {large}, "m": {large}, "n": 1}}\n{{"id": 7, "m": "x", "n": 2}}\n')
    assert _read("json", path) == [
        {"id": str(large), "m": str(large), "n": 1}, {"id": "7", "m": "x", "n": 2},
    ]  # fmt: skip
    assert kept.rows("json", [str(path)]).features == {
        "id": Value("string"), "m": Json(), "n": Value("int64"),
    }  # fmt: skip


def test_integers_and_floats_of_a_column_are_not_made_alike(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 5}\n{"n": 0.5}\n{"n": NaN}\n{}\n')
    found = [row["n"] for row in _read("json", path)]
    assert found == [5, 0.5, None, None]
    assert type(found[0]) is int


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("csv", "", "it is empty"),
        ("csv", "\n \n", "it is empty"),
        ("csv", "a,a\n1,2\n", "names the column a twice"),
        ("csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, and the first line 2"),
        ("csv", "a,b\n1\n", "line 2 has 1 cells"),
        ("csv", 'a\n"x', "line 2: unexpected end of data"),
        ("csv", 'a,b\n"x"y,2\n', "line 2"),
        ("csv", b"a\n\xff\n", "not UTF-8"),
        ("json", "", "it is empty"),
        ("json", "[]", "it is empty"),
        ("json", '{"a": 1}\n{"a" 1}', "row 2: Expecting ':'"),
        ("json", '[{"a": 1}', "ends without ] behind row 1"),
        ("json", '[{"a": 1},]', "row 2 should be an object"),
        ("json", '[{"a": 1} {"a": 1}]', "row 2 should be an object"),
        ("json", '[{"a": 1}] 5', "row 2 should be an object"),
        ("json", "[1, 2]", "row 1 should be an object"),
        ("json", '{"a": "x', "row 1: Unterminated"),
        ("json", '{"a": 1, "a": 2}', "the key a twice"),
        ("json", b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_what_is_damaged_is_named_with_its_place(
    name: str, content: str | bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says.replace("]", r"\]").replace("[", r"\[")):
        _read(name, path)


def test_a_mistake_in_the_middle_does_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": }\n' + '{"a": "x"}\n' * 400_000)  # 4 MB, four pieces
    tracemalloc.start()
    with pytest.raises(ValueError, match="row 1: Expecting value"):
        objects.schema([str(path)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * objects.PIECE


@pytest.mark.parametrize("reader", ["csv", "json"])
def test_memory_does_not_grow_with_the_file(reader: str, tmp_path: Path) -> None:
    row = {"json": '{"a": "%s"}\n', "csv": "%s\n"}[reader] % ("x" * 1000)
    peaks = []
    for count in (3000, 12000):  # 3 and 12 MB
        path = tmp_path / f"{count}"
        path.write_text(("" if reader == "json" else "a\n") + row * count)
        tracemalloc.start()
        assert len(kept.rows(reader, [str(path)])) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20


def test_a_head_is_read_from_the_first_piece(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 200 + "{damaged" + " " * 2**22)
    assert READERS["json"].schema([str(path)], 100).names == ["a"]


def test_parquet_keeps_its_types_and_words_of_a_dictionary_are_words(tmp_path: Path) -> None:
    table = pa.table(
        {"id": pa.array([2**63 - 1, None]), "word": pa.array(["b", "a"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert _read("parquet", tmp_path / "rows.parquet") == [
        {"id": 2**63 - 1, "word": "b"}, {"id": None, "word": "a"},
    ]  # fmt: skip


def test_files_of_a_split_fit_each_other_or_are_refused(tmp_path: Path) -> None:
    one, other = (str(tmp_path / name) for name in ("1", "2"))
    Path(one).write_text("a,b\n1,2\n")
    Path(other).write_text("b,a\n3,4\n")
    assert list(kept.rows("csv", [one, other])) == [{"a": "1", "b": "2"}, {"a": "4", "b": "3"}]
    Path(other).write_text("b,c\n3,4\n")
    with pytest.raises(ValueError, match=r"different columns: a, b, and in .*2' b, c"):
        kept.rows("csv", [one, other])
    Path(one).write_text('{"a": 1}')
    Path(other).write_text('{"a": "1", "b": 2}')
    assert list(kept.rows("json", [one, other])) == [{"a": 1, "b": None}, {"a": "1", "b": 2}]
    pq.write_table(pa.table({"a": [1]}), one)
    pq.write_table(pa.table({"a": ["1"]}), other)
    with pytest.raises(ValueError, match="its files have different types"):
        kept.rows("parquet", [one, other])


def test_a_file_that_has_changed_is_read_again_and_half_a_cache_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    assert _read("csv", path) == [{"a": "1"}]
    path.write_text('a\n"2')
    with pytest.raises(ValueError, match="line 2"):
        _read("csv", path)
    path.write_text("a\n2\n")
    assert _read("csv", path) == [{"a": "2"}]
    assert {one.suffix for one in (tmp_path / "cache" / "thinwire").iterdir()} == {".arrow"}


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(OSError, match="set HF_DATASETS_CACHE to a folder"):
        _read("csv", tmp_path / "rows.csv")
