"""Instruction tuning of an encoder-decoder: it reads a prompt and writes the response."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fl_app.data.padding import IGNORED, pad
from fl_app.tasks.evaluation import Rows, batches, evaluating, greedy
from fl_app.tasks.filled import check_filled
from fl_app.tasks.instruction import Instruction


class Seq2Seq:
    """A model with encoder, decoder and a language-model head learns to answer prompts.

    A prompt of more than ``max_length`` tokens and a response of more than ``max_answer_length``
    lose their ends. The model makes its decoder's input of the labels, as transformers' do.

    Args:
        cfg: see ``fl_app.tasks.instruction``.
        model_config: nothing of it is needed.

    Raises:
        ValueError: a template that is none, or a tokenizer without an end or a padding token.
    """

    metrics = ("accuracy",)

    def __init__(
        self,
        cfg: DictConfig,
        tokenizer: PreTrainedTokenizerFast,
        model_config: PreTrainedConfig,
        max_length: int,
        max_answer_length: int,
    ) -> None:
        self.instruction = Instruction(cfg)
        self.columns = self.instruction.columns
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_answer_length = max_answer_length
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no end or no padding token: it is not a seq2seq's")
        self.end: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id

    def check(self, rows: Dataset) -> None:
        """Refuse rows with nothing in a column; FaultError says how many."""
        check_filled(self.columns, rows)

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` [rows, tokens] and ``labels`` [rows, answer tokens]."""
        texts = self.instruction.responses(rows)
        responses = self.tokenizer(
            text_target=texts, truncation=True, max_length=self.max_answer_length
        )["input_ids"]
        labels = [  # some tokenizers of the kind do not end what they encode
            ids if ids[-1:] == [self.end] else [*ids, self.end][: self.max_answer_length]
            for ids in responses
        ]
        return {**self.prompts(rows), "labels": pad(labels, IGNORED)}

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, [rows, tokens], padded on the right."""
        texts = self.instruction.prompts(rows)
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        return {
            "input_ids": pad(ids, self.pad),
            "attention_mask": pad([[1] * len(prompt) for prompt in ids], 0),
        }

    def examples(self, rows: Rows) -> int:
        """Every row is one."""
        return len(rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """Greedy responses, one per row."""
        texts: list[str] = []
        with evaluating(model):
            for some in batches(rows):
                ids = greedy(model, self.prompts(some), self.max_answer_length, self.pad, self.end)
                texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """See ``Instruction.score``."""
        return self.instruction.score(predictions, rows)
