"""Instruction tuning of a decoder: a prompt, then the response that the loss is on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fl_app.data.padding import IGNORED, pad
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.instruction import Instruction


class Marks(NamedTuple):
    """The tokens that a decoder's texts have around them.

    Attributes
    ----------
    start : list of int
        The token before a text; none, if the tokenizer writes none.
    end : int
        The token behind it.
    pad : int
        Padding.
    """

    start: list[int]
    end: int
    pad: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "Marks":
        """Return those of a tokenizer.

        Raises
        ------
        ValueError
            It has no end token.
        """
        end = tokenizer.eos_token_id
        if end is None:
            raise ValueError("the tokenizer has no end token, so that no text would ever end")
        starts = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        # A decoder's vocabulary often has no token for padding; what is masked may be any.
        padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return cls([tokenizer.bos_token_id] if starts else [], end, padding)


class CausalLM(Instruction):
    """A model with a language-model head learns to continue prompts.

    Prompt and response are tokenized separately, so that a prompt is the same tokens in training
    and in prediction. A prompt of more than ``max_length`` tokens loses its beginning (after the
    start token), as its end is where the response is asked for; a response of more than
    ``max_answer_length`` tokens loses its end, and the end token with it.

    Parameters
    ----------
    cfg, spec
        See `Instruction`.

    Raises
    ------
    ValueError
        A text that is not a template, or a tokenizer without an end token.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec)
        self.start, self.end, self.pad = Marks.of(spec.tokenizer)

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each [rows, tokens].

        They are padded on the right; labels are those of the response and the end token.
        """
        prompts = self._prompts(rows)
        responses = [
            [*ids, self.end][: self.max_answer_length]
            for ids in self.tokens.filled(self.response, rows, add_special_tokens=False)
        ]
        pairs = list(zip(prompts, responses, strict=True))
        return {
            **self.padded([prompt + response for prompt, response in pairs]),
            "labels": pad([[IGNORED] * len(prompt) + r for prompt, r in pairs], IGNORED),
        }

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, [rows, tokens], padded on the left."""
        return self.padded(self._prompts(rows), left=True)

    def responses(self, inputs: dict[str, Tensor], generated: Tensor) -> list[list[int]]:
        """Return the tokens between the prompt and the end token."""
        return continued(inputs, generated, self.end)

    def _prompts(self, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        room = self.max_length - len(self.start)
        prompts = self.tokens.filled(self.prompt, rows, add_special_tokens=False)
        return [self.start + ids[max(0, len(ids) - room) :] for ids in prompts]


def continued(inputs: dict[str, Tensor], generated: Tensor, end: int) -> list[list[int]]:
    """Return the tokens that a decoder wrote between its prompt and the token ``end``."""
    after = generated[:, inputs["input_ids"].shape[1] :].tolist()
    # Padding may be a token that is not special: it is cut here, not in decoding.
    return [ids[: ids.index(end)] if end in ids else ids for ids in after]
