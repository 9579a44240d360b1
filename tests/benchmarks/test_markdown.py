"""Text of others in a page of results stays in its cell."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmarks import markdown

TEXT = st.text(st.sampled_from("ab 1|`\\\n\r*_<>&[]()#-$~!\"'"), max_size=12)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_whatever_a_cell_says_it_is_one_cell_that_says_it(texts: list[str]) -> None:
    rows = [(markdown.escaped(text), markdown.code(f"x {text}"), "end") for text in texts]
    page = markdown.table(("text", "code", "last"), rows)
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    assert tokens[0].type == "table_open"
    assert tokens[-1].type == "table_close"
    cells = [one for one in tokens if one.type == "inline"][3:]
    assert len(cells) == 3 * len(texts)
    for text, plain, code in zip(texts, cells[::3], cells[1::3], strict=True):
        line = " ".join(text.split())
        assert {part.type for part in plain.children} <= {"text", "text_special"}
        assert "".join(part.content for part in plain.children) == line
        assert [part.type for part in code.children] == ["code_inline"]
        assert code.children[0].content == f"x {line}".strip()
