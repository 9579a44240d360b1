"""Texts of rows as tokens: a row's text is text, whatever it looks like.

A tokenizer looks for its special tokens in every text, so that a row which quotes "</s>" would end
there. Only what the configuration itself writes, the literal parts of a template, may be a special
token here.
"""

import copy
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

from tokenizers import Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerFast

from fl_app.tasks.template import Template


class Tokens:
    """Encodes texts of rows with a tokenizer, and never makes a special token of them.

    Rows without the spelling of a special token are encoded by the tokenizer as it is. For others
    the special tokens of a copy of it are spelled in a way that no row can know, and the literals
    of a template are spelled alike. Both ways encode whole texts: merges and leading spaces at the
    edges of a value are those of the tokenizer.

    The marks of other vocabulary (``special: false`` in tokenizer.json: runs of spaces, HTML tags)
    are found in rows as before.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's own. Tokenizers of other kinds cannot be copied so: with them a row may have
        the spelling of a special token only where the template has none.

    Attributes
    ----------
    special : list of str
        The spellings of the special tokens, the longest first.
    pattern : Pattern
        Finds any of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(one) for one in added if one.special)}
        # The longest first, as a tokenizer takes them.
        self.special = sorted(filter(None, map(str, special)), key=lambda one: (-len(one), one))
        self.pattern = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizer = getattr(backend, "normalizer", None)
        self._normalized: Callable[[str], str] = normalizer.normalize_str if normalizer else str

    def __call__(self, *texts: Sequence[Any], **options: Any) -> BatchEncoding:
        """Return what the tokenizer makes of ``texts``, of which no word is a special token.

        Parameters
        ----------
        *texts
            One list of texts, or of lists of words; or two, for pairs.
        **options
            Of the tokenizer's call.
        """
        found = (self._count(one) for column in texts for text in column for one in _words(text))
        if not any(found):
            return self.tokenizer(*texts, **options)
        if self.tokenizer.is_fast:
            return self._respelled(*texts, **options)
        for column in texts:
            self._check_split(column)
        return self.tokenizer(*texts, split_special_tokens=True, **options)

    def filled(
        self,
        template: Template,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: str = "text",
        **options: Any,
    ) -> list[list[int]]:
        """Return the token ids of ``template`` with each row's values.

        Parameters
        ----------
        template : Template
            A text with fields.
        rows : sequence of mappings
            Values by column.
        key : str
            The argument of the tokenizer's call that takes the texts: text or text_target.
        **options
            Of the tokenizer's call.

        Raises
        ------
        FaultError
            See `Template.fill`.
        """
        texts = [template.fill(row) for row in rows]
        own = [sum(map(self._count, template.literals(row))) for row in rows]
        if all(self._count(text) <= count for text, count in zip(texts, own, strict=True)):
            return self.tokenizer(**{key: texts}, **options)["input_ids"]
        if self.tokenizer.is_fast:
            texts = [template.fill(row, self._spell) for row in rows]
            return self._respelled(**{key: texts}, **options)["input_ids"]
        if any(own):
            self._refuse(template.key)
        self._check_split(texts)
        return self.tokenizer(**{key: texts}, split_special_tokens=True, **options)["input_ids"]

    def of_literals(self, text: str, hidden: Mapping[str, str]) -> list[int]:
        """Return the token ids of ``text``, without tokens of the tokenizer's own around it.

        Parameters
        ----------
        text : str
            Its spellings of special tokens are literals of a template.
        hidden : mapping of str to str
            Spelling -> what stands for it where it is text.
        """
        plain = _shown(text, hidden)
        if self._count(plain) <= len(self.pattern.findall(text)):
            return self.tokenizer(plain, add_special_tokens=False)["input_ids"]
        if not self.tokenizer.is_fast:
            self._refuse("a conversation")
        marked = _shown(self._spell(text), hidden)
        return self._respelled(marked, add_special_tokens=False)["input_ids"]

    def _count(self, text: str) -> int:
        """Return the number of spellings of special tokens in ``text``, or in its normal form."""
        return max(len(self.pattern.findall(one)) for one in (text, self._normalized(text)))

    @cached_property
    def _spelling(self) -> dict[str, str]:
        nonce = secrets.token_hex(16)
        return {one: f"[{nonce}-{index}]" for index, one in enumerate(self.special)}

    def _spell(self, literal: str) -> str:
        return self.pattern.sub(lambda found: self._spelling[found[0]], literal)

    @cached_property
    def _respelled(self) -> PreTrainedTokenizerFast:
        return respelled(self.tokenizer, self._spelling)

    def _check_split(self, texts: Sequence[str]) -> None:
        """Refuse texts of which a tokenizer without a copy makes special tokens all the same."""
        plain = {"split_special_tokens": True, "add_special_tokens": False}
        unknown = self.tokenizer.unk_token_id  # what it has no piece for stays unknown
        special = {*map(self.tokenizer.convert_tokens_to_ids, self.special)} - {unknown}
        if any(special & {*self.tokenizer(text, **plain)["input_ids"]} for text in texts):
            self._refuse("a text")

    def _refuse(self, where: str) -> NoReturn:
        raise ValueError(
            f"{where}: a row holds the spelling of a special token, which this tokenizer cannot "
            "read as text: choose a model.tokenizer with a tokenizer.json"
        )


def respelled(
    tokenizer: PreTrainedTokenizerFast, spelling: Mapping[str, str]
) -> PreTrainedTokenizerFast:
    """Return a copy whose special tokens, ids unchanged, are found by other spellings alone.

    transformers' ``split_special_tokens`` would not do: models of whole pieces (Unigram, as in T5,
    WordPiece, WordLevel) have special tokens among their pieces, and so find them in any text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Is not changed.
    spelling : dict of str to str
        The new spelling of each special token.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in described["added_tokens"]:
        if token["content"] in spelling:
            new = spelling[token["content"]]
            token |= {"content": new, "normalized": False, "single_word": False}
    _rename(described["model"], spelling)
    made = copy.copy(tokenizer)
    made._tokenizer = Tokenizer.from_str(json.dumps(described))
    # What transformers looks up by name (padding, codes of languages) keeps its old names.
    made.convert_tokens_to_ids = tokenizer.convert_tokens_to_ids  # type: ignore[method-assign]
    return made


def _rename(model: dict[str, Any], spelling: Mapping[str, str]) -> None:
    """Rename special tokens among the pieces of a tokenizer's model.

    A piece that merges can make, or of a single character, is ordinary text and keeps its name.
    """
    merges = model.get("merges", [])
    made = {"".join(one if isinstance(one, list) else one.split(" ")) for one in merges}
    names = {old: new for old, new in spelling.items() if old not in made and len(old) > 1}
    if isinstance(model["vocab"], list):  # Unigram: pieces with their scores, unk by index
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        return
    model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])


def _shown(text: str, hidden: Mapping[str, str]) -> str:
    for spelling, nonce in hidden.items():
        text = text.replace(nonce, spelling)
    return text


def _words(text: Any) -> Sequence[str]:
    return [text] if isinstance(text, str) else text
