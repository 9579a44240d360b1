"""CSV that a spreadsheet may open: no cell of it is a formula, and no number is another."""

import csv
import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.runs.spreadsheet import plain, to_csv

SIGNS = tuple("=+-@＝＋－＠")
CELLS = st.one_of(
    st.text(), st.builds("".join, st.lists(st.sampled_from(["=", "-", "@", ";", "\t", "\n", "1"])))
)


def cells(text: str, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def is_formula(cell: str) -> bool:
    return cell.lstrip().startswith(SIGNS)


@given(CELLS, CELLS)
def test_no_text_is_a_formula_wherever_cells_are_parted(heading: str, cell: str) -> None:
    for delimiter in ",;\t":
        for row in cells(to_csv(pd.DataFrame({heading: [cell]})), delimiter):
            for one in row:
                assert not is_formula(one) or one in (heading, cell)  # then it is a number
                if is_formula(one):
                    float(one)


@given(st.floats() | st.integers())
def test_numbers_stay_what_they_are_as_texts_too(number: float) -> None:
    (_, (value, text)) = cells(to_csv(pd.DataFrame({"a": [number], "b": [str(number)]})))
    if math.isfinite(number):
        assert float(value) == float(text) == number
    again = pd.read_csv(io.StringIO(to_csv(pd.DataFrame({"a": [number, 1.5]}))))
    assert list(again["a"].dropna()) == [n for n in (number, 1.5) if not math.isnan(n)]


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"])))
def test_ordinary_names_are_left_alone(name: str) -> None:
    assert plain(name) == name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('=HYPERLINK("http://x","runs")', '\'=HYPERLINK("http://x","runs")'),
        ("+strategy.inner.x=1 seed=0", "'+strategy.inner.x=1 seed=0"),
        ("a;=1+1", "a;'=1+1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("seed=0 optimizer.lr=-1", "seed=0 optimizer.lr=-1"),
        (None, None),
        (-0.5, -0.5),
    ],
)
def test_what_was_reported(said: object, shown: object) -> None:
    assert plain(said) == shown
