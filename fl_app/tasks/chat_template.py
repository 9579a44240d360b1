"""Chat templates: what a conversation is to a model, in pieces that are trained or only read.

A template is Jinja text of the checkpoint's tokenizer, or one of `BUILT_IN`; a run cannot bring
another. transformers renders it in its sandbox, where it reaches no files and no attributes of
Python. The sandbox bounds a single range, not time and memory: a template that loops in loops is as
slow as it says, so load checkpoints of people you trust with a processor and its memory.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from fl_app.faults.printable import printable
from fl_app.tasks.conversation import (
    ASSISTANT,
    SYSTEM,
    TOOL,
    USER,
    ConversationError,
    Message,
)
from fl_app.tasks.tokens import Tokens

# Some templates write today's date, and a resumed run would then train on other tokens: this is
# the date that Llama 3.1's own template falls back to.
DATE = "26 Jul 2024"
MOST = 1 << 22  # characters of a conversation
REFUSALS = (
    TemplateError, ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
)  # fmt: skip
LEFT_OUT = (SYSTEM, TOOL)  # roles that a template may skip without a word

BUILT_IN = {
    # ChatML (OpenAI 2023), for tokenizers that have its two tokens.
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
        "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    # For any tokenizer with an end token: the roles are words.
    "plain": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ 'assistant: ' + message['content'] + eos_token + '\\n' }}{% else %}"
        "{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
}


Span: TypeAlias = tuple[int, int]  # characters: first, behind the last


class Piece(NamedTuple):
    """Token ids, and whether the assistant has to say them."""

    ids: list[int]
    trained: bool


class ChatTemplate:
    """Renders conversations, and finds what the assistant says in them.

    Each answer begins where the template's own prompt for it ends, and ends with the special token
    behind its content. Both are found by rendering the conversation up to there, with or without
    ``{% generation %}`` in the template. A message is text: a spelling of a special token in it is
    hidden from the template, and is read as text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's own. With a built-in template its ``chat_template`` is set, so that an exported
        folder has it.
    template : str or None
        A key of `BUILT_IN`; None: the tokenizer's own.

    Attributes
    ----------
    end : int
        The token that ends an answer.

    Raises
    ------
    ValueError
        There is no template, or it does not end an answer with a special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str | None) -> None:
        if template is not None:
            tokenizer.chat_template = BUILT_IN[template]
        if not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template: set task.template=plain, which writes the "
                "roles as words, or task.template=chatml if its tokens are in the vocabulary"
            )
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer)
        nonce = secrets.token_hex(16)
        self._hidden = {one: f"[{nonce}={index}]" for index, one in enumerate(self.tokens.special)}
        self.end = self._end()

    def _end(self) -> int:
        try:
            return self.pieces([Message(USER, "a"), Message(ASSISTANT, "b")])[-1][-1].ids[-1]
        except ConversationError as error:
            raise ValueError(f"the tokenizer's chat template cannot be used: {error}") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens behind which the answer to the last message begins.

        They are those that `pieces` has in front of that answer.

        Raises
        ------
        ConversationError
            See `pieces`.
        """
        text = self._rendered(messages, True)
        spans = [span for span, after in self._spans(messages) if _begins(text, after, span)]
        pieces = self._split(text, spans)
        rest = text[spans[-1][1] :] if spans else text
        return [*(token for piece in pieces for token in piece.ids), *self._ids(rest)]

    def pieces(self, messages: Sequence[Message]) -> list[list[Piece]]:
        """Return the sequences that teach the answers of a conversation, the last answer's last.

        There is one, unless the template writes earlier answers otherwise than they were given
        (without their thinking, for example): each of these has a sequence of its own, which ends
        with it, so that every answer is trained as the model has to give it.

        Parameters
        ----------
        messages : sequence of Message
            The last one is the assistant's.

        Raises
        ------
        ConversationError
            The template refuses it, or breaks off.
        """
        spans = self._spans(messages)
        whole = spans[-1][1]
        together = [span for span, after in spans if _begins(whole, after, span)]
        alone = [(span, after) for span, after in spans if not _begins(whole, after, span)]
        found = []
        for span, after in alone:
            earlier = [
                one for one, text in spans if one[1] <= span[0] and _begins(after, text, one)
            ]
            read = [piece._replace(trained=False) for piece in self._split(after, earlier)]
            at = earlier[-1][1] if earlier else 0
            rest = self._split(after[at:], [(span[0] - at, span[1] - at)])
            found.append([*read, *rest])
        return [*found, self._split(whole, together)]

    def _spans(self, messages: Sequence[Message]) -> list[tuple[Span, str]]:
        """Return where each answer stands in the text that ends with it, and that text."""
        found = []
        for at, message in enumerate(messages):
            if message.role == ASSISTANT:
                before = self._rendered(messages[:at], True)
                after = self._rendered(messages[: at + 1], False)
                found.append((self._span(before, after), after))
        return found

    def _span(self, before: str, after: str) -> Span:
        if not after.startswith(before):
            raise ConversationError(
                "the chat template begins an answer otherwise than its prompt for one ends"
            )
        ends = [one.end() for one in self.tokens.pattern.finditer(after, len(before))]
        if not ends or after[ends[-1] :].strip():
            raise ConversationError(
                "the chat template ends an answer with no special token of the tokenizer: set "
                "task.template=plain"
            )
        return len(before), ends[-1]

    def _split(self, text: str, spans: Sequence[Span]) -> list[Piece]:
        """Return the pieces of ``text`` to the end of the last answer."""
        found: list[Piece] = []
        at = 0
        for first, last in spans:
            found.append(Piece(self._ids(text[at:first]), False))
            found.append(Piece(self._ids(text[first:last]), True))
            at = last
        return found

    def _ids(self, text: str) -> list[int]:
        return self.tokens.of_literals(text, self._hidden) if text else []

    def _rendered(self, messages: Sequence[Message], asks: bool) -> str:
        """Return the text of messages, in which their spellings of special tokens are hidden."""
        shown = [
            {"role": role, "content": self.tokens.pattern.sub(self._hide, content)}
            for role, content in messages
        ]
        try:
            text = str(self._applied(shown, asks))
        except REFUSALS as error:
            where = self._refused(shown)
            raise ConversationError(
                f"the chat template refuses {where}: {printable(error)}"
            ) from None
        if len(text) > MOST:
            raise ConversationError(f"the chat template makes more than {MOST:,} characters of it")
        for number, one in enumerate(shown, start=1):
            if one["role"] in LEFT_OUT and one["content"].strip() not in text:
                raise ConversationError(
                    f"the chat template leaves out message {number}, of the role {one['role']!r}"
                )
        return text

    def _applied(self, shown: list[dict[str, str]], asks: bool) -> Any:
        return self.tokenizer.apply_chat_template(
            shown, tokenize=False, add_generation_prompt=asks, date_string=DATE
        )

    def _refused(self, shown: list[dict[str, str]]) -> str:
        """Return which message the template refuses: the last of the fewest that it refuses."""
        for number, one in enumerate(shown, start=1):
            try:
                self._applied(shown[:number], False)
            except REFUSALS:
                return f"message {number}, of the role {one['role']!r}"
        return "a prompt for an answer"

    def _hide(self, found: re.Match[str]) -> str:
        return self._hidden[found[0]]


def _begins(text: str, after: str, span: Span) -> bool:
    """Tell whether ``text`` has an answer, and all before it, as the text that ends with it."""
    return text.startswith(after[: span[1]])
