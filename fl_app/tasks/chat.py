"""Chat: a decoder learns what the assistant says in conversations."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor

from fl_app.data.padding import IGNORED, pad
from fl_app.data.rows import numbers
from fl_app.faults import FaultError
from fl_app.tasks import conversation
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.causal_lm import continued
from fl_app.tasks.chat_template import ChatTemplate, Piece
from fl_app.tasks.conversation import ASSISTANT, ConversationError, Message
from fl_app.tasks.filled import check_filled
from fl_app.tasks.generating import Generating


class Chat(Generating):
    """A model with a language-model head learns to answer in conversations.

    All answers of the assistant are trained, each with the token that ends it; nothing else is.
    What stands behind the last answer is left out. Scores ask for the last answer, by the
    conversation before it. A conversation of more than ``max_length`` and ``max_answer_length``
    tokens together loses its beginning, and the prompt of a score what exceeds ``max_length``; a
    start token that the template writes is kept.

    Parameters
    ----------
    cfg : DictConfig
        ``messages``, the column of the conversations (``fl_app.tasks.conversation``);
        ``template``, see `ChatTemplate`; others see `Generating`.
    spec : ModelSpec
        The model.

    Raises
    ------
    ValueError
        See `ChatTemplate`.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec, cfg.messages)
        own = [] if cfg.average_over is None else [cfg.average_over]
        self.columns = (self.reference, *own)
        self.asked = (self.reference,)
        self.template = ChatTemplate(spec.tokenizer, cfg.template)
        self.end = self.template.end
        padding = spec.tokenizer.pad_token_id
        self.pad = self.end if padding is None else padding

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a conversation that the template can write.

        Raises
        ------
        FaultError
            With the number of such rows, and why the first of them is none.
        """
        check_filled(self.columns, rows, nested=True)
        why: dict[int, str] = {}
        for index, value in enumerate(rows[self.reference]):
            try:
                self.template.pieces(conversation.read(value))
            except ConversationError as error:
                why[index] = str(error)
        if why:
            raise FaultError(
                "conversation",
                f"{len(why)} of {len(rows)} rows have no conversation in the column "
                f"{self.reference!r} that can be learnt: {numbers([*why])}. "
                f"Row {next(iter(why)) + 1}: "
                f"{next(iter(why.values()))}",
                column=self.reference,
                rows=len(why),
            )

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each [sequences, tokens].

        They are padded on the right. A row is one sequence, or several: see `ChatTemplate.pieces`.
        """
        found = [one for row in rows for one in self.template.pieces(self._messages(row))]
        room = self.max_length + self.max_answer_length
        ids = [self._cut(_tokens(pieces), _tokens(pieces), room) for pieces in found]
        labels = [self._cut(_tokens(pieces), _labels(pieces), room) for pieces in found]
        return {**self.padded(ids), "labels": pad(labels, IGNORED)}

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, [rows, tokens], padded on the left."""
        found = []
        for row in rows:
            messages = self._messages(row, answered=False)
            asked = messages[:-1] if messages[-1].role == ASSISTANT else messages
            ids = self.template.prompt(asked)
            found.append(self._cut(ids, ids, self.max_length))
        return self.padded(found, left=True)

    def responses(self, inputs: dict[str, Tensor], generated: Tensor) -> list[list[int]]:
        """Return the tokens between the prompt and the end token."""
        return continued(inputs, generated, self.end)

    def references(self, row: Mapping[str, Any]) -> list[str]:
        """Return the last answer."""
        return [self._messages(row)[-1].content]

    def question(self, row: Mapping[str, Any]) -> str:
        """Return the message before the last answer."""
        return self._messages(row)[-2].content

    def _cut(self, ids: list[int], values: list[int], room: int) -> list[int]:
        """Return the values of the last ``room`` tokens, of which the first is a start token."""
        if len(ids) <= room:
            return values
        kept = int(ids[0] == self.tokenizer.bos_token_id)
        return [*values[:kept], *values[len(ids) - room + kept :]]

    def _messages(self, row: Mapping[str, Any], answered: bool = True) -> list[Message]:
        try:
            return conversation.read(row[self.reference], answered)
        except ConversationError as error:
            raise FaultError("conversation", str(error), column=self.reference, rows=1) from None


def _tokens(pieces: Sequence[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def _labels(pieces: Sequence[Piece]) -> list[int]:
    return [token if piece.trained else IGNORED for piece in pieces for token in piece.ids]
