"""What someone else says is shown as one printable line of bounded length, whatever it is."""

import logging
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.faults.printable import WithoutTraceback, printable, printable_lines

NASTY = st.sampled_from(
    ["\x1b[31m", "\n", "\r", "\x85", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff", "\ufe0f",
     "\x00", "\x9b", "\x7f", "\ud800", "\U000e0041", "\u3164", "\xad"]
)  # fmt: skip
TEXTS = st.lists(st.text(st.characters()) | NASTY).map("".join)  # lone surrogates, too
TAIL = len(" ... (4,294,967,296 more characters)")


@given(TEXTS, st.integers(0, 400))
def test_whatever_was_said_is_one_printable_line_of_bounded_length(said: str, most: int) -> None:
    shown = printable(said, most)
    assert len(shown) <= most + TAIL
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert {unicodedata.category(char)[0] for char in shown}.isdisjoint("C")
    shown.encode()  # no surrogate is left


@given(TEXTS)
def test_what_is_shown_is_shown_again_as_it_is(said: str) -> None:
    shown = printable(said, most=10**6)
    assert printable(shown, most=10**6) == shown


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=300))
def test_what_is_printable_is_left_as_it_is(said: str) -> None:
    assert printable(said) == said


@given(TEXTS, st.integers(0, 300))
def test_how_much_was_left_out_is_said(said: str, most: int) -> None:
    shown = printable(said, most)
    if cut := re.search(r" \.\.\. \(([\d,]+) more characters\)$", shown):
        left = int(cut[1].replace(",", ""))
        kept = said[: len(said) - left]
        assert shown[: cut.start()] == printable(kept, most)
        assert len(printable(said, 10**6)) > most
    else:
        assert shown == printable(said, 10**6)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "x\x1b[31mRED\nround 1: all clients fine",
            r"x\x1b[31mRED\nround 1: all clients fine",
        ),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("zero\u200bwidth\ufe0f", r"zero\u200bwidth\ufe0f"),
        ("e" + "\u0301" * 4, "e\u0301\u0301" + r"\u0301\u0301"),
        ("Zürich, 東京, naïve", "Zürich, 東京, naïve"),
        (None, "None"),
        (["a\n"], r"['a\n']"),
    ],
)
def test_what_was_reported_is_shown_as_it_was_written(said: object, shown: str) -> None:
    assert printable(said) == shown


def test_five_million_characters_and_twenty_thousand_names_are_one_short_line() -> None:
    assert printable("x" * 5_000_000) == "x" * 300 + " ... (4,999,700 more characters)"
    assert len(printable([f"metric-{i}" for i in range(20_000)])) < 300 + TAIL


@given(st.lists(TEXTS, max_size=6).map("\n".join), st.integers(1, 5))
def test_of_a_text_of_several_lines_each_is_printable(said: str, most: int) -> None:
    lines = printable_lines(said, most).split("\n")
    assert len(lines) <= most + 1
    assert all(line.isprintable() for line in lines)


def test_an_error_that_says_all_is_logged_without_a_traceback_and_others_with_one(caplog) -> None:
    logger = logging.getLogger("some.library")
    logger.addFilter(WithoutTraceback(OSError))
    for error in (FileNotFoundError("no such run"), ValueError("a fault of ours")):
        try:
            raise error
        except Exception as raised:
            logger.error("it ended", exc_info=raised)
    said = caplog.text
    assert "it ended\nFileNotFoundError: no such run\n" in said
    assert said.count("Traceback (most recent call last):") == 1
    assert said.index("FileNotFoundError") < said.index("Traceback") < said.index("ValueError: a f")
