"""docs/security.md names tests for what it claims: they are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    sources = {path.stem: path.read_text() for path in TESTS.rglob("test_*.py")}
    functions = {n for text in sources.values() for n in re.findall(r"def (test_\w+)", text)}
    named = {*re.findall(r"\btest_\w+", PAGE)}
    assert len(named) > 30
    assert named <= functions | {*sources}
