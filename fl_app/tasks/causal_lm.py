"""Instruction tuning of a decoder: a prompt, and the response that the loss is on."""

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


class CausalLM:
    """A model with a language-model head learns to continue prompts.

    Prompt and response become tokens apart from each other, so that a prompt is the same tokens
    when the model is trained and when it answers. A prompt of more than ``max_length`` tokens
    loses its beginning (what follows the start token), as the end is where the response is asked
    for; a response of more than ``max_answer_length`` loses its end, and the end token with it.

    Args:
        cfg: see ``fl_app.tasks.instruction``.
        model_config: nothing of it is needed.

    Raises:
        ValueError: a template that is none, or a tokenizer without an end token.
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
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, so that no answer would ever end")
        self.end: int = tokenizer.eos_token_id
        # A decoder's vocabulary often has no token for padding; what is masked may be any.
        self.pad: int = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        starts = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        self.start: list[int] = [tokenizer.bos_token_id] if starts else []

    def check(self, rows: Dataset) -> None:
        """Refuse rows with nothing in a column; FaultError says how many."""
        check_filled(self.columns, rows)

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, [rows, tokens], padded on the right;
        labels are those of the response and the end token.
        """
        prompts = self._prompts(rows)
        responses = [
            [*ids, self.end][: self.max_answer_length]
            for ids in self._ids(self.instruction.responses(rows))
        ]
        pairs = list(zip(prompts, responses, strict=True))
        return {
            "input_ids": pad([prompt + response for prompt, response in pairs], self.pad),
            "attention_mask": pad([[1] * len(prompt + response) for prompt, response in pairs], 0),
            "labels": pad([[IGNORED] * len(prompt) + r for prompt, r in pairs], IGNORED),
        }

    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, [rows, tokens], padded on the left."""
        prompts = self._prompts(rows)
        return {
            "input_ids": pad(prompts, self.pad, left=True),
            "attention_mask": pad([[1] * len(prompt) for prompt in prompts], 0, left=True),
        }

    def examples(self, rows: Rows) -> int:
        """Every row is one."""
        return len(rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """Greedy continuations, one per row, without the prompt and special tokens."""
        texts: list[str] = []
        with evaluating(model):
            for some in batches(rows):
                inputs = self.prompts(some)
                ids = greedy(model, inputs, self.max_answer_length, self.pad, self.end)
                behind = ids[:, inputs["input_ids"].shape[1] :].tolist()
                texts += self.tokenizer.batch_decode(
                    [self._until_end(row) for row in behind], skip_special_tokens=True
                )
        return [text.strip() for text in texts]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """See ``Instruction.score``."""
        return self.instruction.score(predictions, rows)

    def _prompts(self, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        room = self.max_length - len(self.start)
        prompts = self._ids(self.instruction.prompts(rows))
        return [self.start + ids[max(0, len(ids) - room) :] for ids in prompts]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _until_end(self, ids: list[int]) -> list[int]:
        """What comes before the end token: padding may be a token that is not special."""
        return ids[: ids.index(self.end)] if self.end in ids else ids
