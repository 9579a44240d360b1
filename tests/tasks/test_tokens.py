"""A row's text is text: only the literals of a template become special tokens."""

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from fl_app.files import installed
from fl_app.tasks.template import Template
from fl_app.tasks.tokens import Tokens
from tests import architectures
from tests.architectures import END, SPECIAL, START, UNKNOWN

LETTERS = "abcdefghijklmnopqrstuvwxyz<>/ "
PIECES = ["he", "the", "at", "▁the", "▁a"]
QUOTED = st.sampled_from([*SPECIAL, " </s> ", "<s", "/s>", "</S>"])
VALUES = st.lists(QUOTED | st.text(LETTERS, max_size=8), max_size=4).map("".join)
PLAIN = Template("task.prompt", "the {a} and {b}. ")
MARKED = Template("task.prompt", "<s>at {a}</s><s> {b}<unk>")


def _made(model: Any, before: Any, normalizer: Any = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = before
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", END)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def _vocabulary(*extra: str) -> dict[str, int]:
    return {piece: k for k, piece in enumerate(dict.fromkeys([*SPECIAL, *LETTERS, *extra]))}


def _unigram(scheme: str) -> PreTrainedTokenizerFast:
    scores = [(piece, -float(k > 3) - len(piece)) for piece, k in _vocabulary("▁", *PIECES).items()]
    scores[:4] = [(piece, 0.0) for piece in SPECIAL]  # as T5's: cheaper than any other piece
    normalizer = normalizers.NFKC()
    return _made(
        Unigram(scores, unk_id=UNKNOWN), pre_tokenizers.Metaspace(prepend_scheme=scheme), normalizer
    )


def _merges() -> PreTrainedTokenizerFast:
    merges = [("h", "e"), ("t", "he"), ("a", "t"), ("▁", "the"), ("▁", "a")]
    model = BPE(_vocabulary("▁", *PIECES), merges, unk_token="<unk>", fuse_unk=True)
    first = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _made(model, None, first)  # as Llama 2's: no word ends before the text does


def _words(kind: Any) -> PreTrainedTokenizerFast:
    vocabulary = _vocabulary("the", "at", "<s>at", *(f"##{c}" for c in LETTERS))
    return _made(kind(vocabulary, unk_token="<unk>"), pre_tokenizers.WhitespaceSplit())


KINDS = {
    "bytes": lambda: architectures.tokenizer("<s> $A"),
    "unigram, first": lambda: _unigram("first"),
    "unigram, always": lambda: _unigram("always"),
    "merges": _merges,
    "word pieces": lambda: _words(WordPiece),
    "words": lambda: _words(WordLevel),
    "llama_tiny": lambda: AutoTokenizer.from_pretrained(installed("fl_app/models/llama_tiny")),
    "vt5_tiny": lambda: AutoTokenizer.from_pretrained(installed("fl_app/models/vt5_tiny")),
}


@lru_cache
def _tokens(kind: str) -> Tokens:
    return Tokens(KINDS[kind]())


def _specials(tokens: Tokens, ids: list[int]) -> list[int]:
    """Return the special tokens among ``ids`` but for what has no piece."""
    known = {*tokens.tokenizer.all_special_ids} - {tokens.tokenizer.unk_token_id}
    return [one for one in ids if one in known]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(a=VALUES, b=VALUES)
@example(a="</s>", b="the")
@example(a="was <s>0</s> now 1", b="＜/s＞")  # NFKC makes "</s>" of the second
@example(a="<", b="/s>")
def test_a_value_is_never_a_special_token(kind: str, a: str, b: str) -> None:
    tokens = _tokens(kind)
    row, plain = {"a": a, "b": b}, {"add_special_tokens": False}
    assert _specials(tokens, tokens.filled(PLAIN, [row], **plain)[0]) == []
    literal = tokens.filled(MARKED, [{"a": "at", "b": "at"}], **plain)[0]
    found = tokens.filled(MARKED, [row], **plain)[0]
    assert _specials(tokens, found) == _specials(tokens, literal)
    if kind == "bytes":
        assert tokens.tokenizer.decode(found) == MARKED.fill(row)
        assert [i for i in found if i > UNKNOWN] == _bytes(tokens, f"at {a} {b}")
    (ids,) = tokens([f"{a} {b}"])["input_ids"]
    (added,) = tokens(["at"])["input_ids"]
    assert _specials(tokens, ids) == _specials(tokens, added)


def _bytes(tokens: Tokens, text: str) -> list[int]:
    alphabet = Tokenizer.from_str(tokens.tokenizer.backend_tokenizer.to_str())
    alphabet.encode_special_tokens = True
    return alphabet.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(a=st.text(LETTERS.replace("<", "ß"), max_size=12), b=st.text("the a\nß▁", max_size=6))
def test_other_text_is_encoded_as_the_tokenizer_does(kind: str, a: str, b: str) -> None:
    """Merges and spaces at the edges of a value included, beside a row that needs the copy."""
    tokens = _tokens(kind)
    rows = [{"a": a, "b": b}, {"a": "</s>", "b": "<s>"}]
    for template in (PLAIN, MARKED):
        expected = tokens.tokenizer([template.fill(rows[0])])["input_ids"]
        assert tokens.filled(template, rows[:1]) == expected
        assert tokens.filled(template, rows)[:1] == expected
    together = tokens([a, "</s>"], padding=True, truncation=True, max_length=7)
    alone = tokens.tokenizer([a], truncation=True, max_length=7)
    assert together["input_ids"][0][: len(alone["input_ids"][0])] == alone["input_ids"][0]
    width = len(together["input_ids"][0]) - len(alone["input_ids"][0])
    assert together["attention_mask"][0] == alone["attention_mask"][0] + [0] * width
    assert together["input_ids"][0][len(alone["input_ids"][0]) :] == [architectures.PAD] * width


def test_words_and_pairs_are_text_too() -> None:
    tokens = _tokens("bytes")
    pages = tokens([["a", "</s>"], ["b"]], is_split_into_words=True, padding=True)
    assert pages["input_ids"][0][0] == START
    assert END not in pages["input_ids"][0]
    assert pages.word_ids(0) == [None, 0, *[1] * 4]
    pair = tokens(["</s>"], ["<s>"])["input_ids"][0]
    assert _specials(tokens, pair) == [START, END, END]


def test_a_tokenizer_without_a_copy_reads_text_or_refuses() -> None:
    tokens = Tokens(ByT5Tokenizer())
    end = tokens.tokenizer.eos_token_id
    row, plain = {"a": "</s>", "b": ""}, {"add_special_tokens": False}
    assert tokens.tokenizer(["</s>"], **plain)["input_ids"] == [[end]]
    assert tokens.tokenizer.decode(tokens.filled(PLAIN, [row], **plain)[0]) == PLAIN.fill(row)
    assert len(tokens(["</s>"], **plain)["input_ids"][0]) == 4
    with pytest.raises(ValueError, match=r"task\.prompt: .*tokenizer\.json"):
        tokens.filled(MARKED, [row])
