"""Instruction tuning of an encoder-decoder: it reads a prompt and writes the response."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from fl_app.data.padding import IGNORED, pad
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.instruction import Instruction


class Seq2Seq(Instruction):
    """A model with encoder, decoder and a language-model head learns to answer prompts.

    A prompt of more than ``max_length`` tokens and a response of more than ``max_answer_length``
    lose their ends. The model makes the input of its decoder from the labels, as those of
    transformers do.

    Parameters
    ----------
    cfg, spec
        See `Instruction`.

    Raises
    ------
    ValueError
        A text that is not a template, or a tokenizer without an end or a padding token.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        super().__init__(cfg, spec)
        if spec.tokenizer.eos_token_id is None or spec.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no end or no padding token: it is not a seq2seq's")
        self.end = spec.tokenizer.eos_token_id
        self.pad = spec.tokenizer.pad_token_id

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` [rows, tokens], ``labels`` [rows, tokens]."""
        cut = {"truncation": True, "max_length": self.max_answer_length}
        responses = self.tokens.filled(self.response, rows, key="text_target", **cut)
        labels = [  # some tokenizers of encoder-decoders do not add the end token
            ids if ids[-1:] == [self.end] else [*ids, self.end][: self.max_answer_length]
            for ids in responses
        ]
        return {**self.prompts(rows), "labels": pad(labels, IGNORED)}

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, [rows, tokens], padded on the right."""
        return self.padded(
            self.tokens.filled(self.prompt, rows, truncation=True, max_length=self.max_length)
        )

    def responses(self, inputs: dict[str, Tensor], generated: Tensor) -> list[list[int]]:
        """Return all tokens of the decoder."""
        return generated.tolist()
