"""Instruction tuning: prompts, responses and the score, the same for every generating model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.data.padding import pad
from fl_app.faults import during
from fl_app.tasks import ACCURACY
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, batches, check_predictions, evaluating, greedy
from fl_app.tasks.filled import check_filled, check_kind
from fl_app.tasks.template import Template, text_of
from fl_app.tasks.tokens import Tokens


class Instruction(ABC):
    """A generating model learns to answer prompts with responses.

    Parameters
    ----------
    cfg : DictConfig
        ``prompt`` and ``response``, templates; ``reference``, the column whose final answer is the
        right one; ``answer``, how answers are found and compared (``fl_app.tasks.answers``);
        ``average_over``, a column: accuracy is then the mean over its values of the mean over the
        rows of each, as in tables over several test sets (null: the mean over all rows).
    spec : ModelSpec
        The model.

    Attributes
    ----------
    columns : tuple of str
        All columns that every row needs, each once.
    asked : tuple of str
        Those that a prediction needs.
    optional : tuple of str
        The columns of the templates' sections, which a row may lack.

    Raises
    ------
    ValueError
        A text that is not a template, or a tokenizer that lacks a token.
    """

    metrics = ACCURACY
    end: int  # token ids
    pad: int

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        self.prompt = Template("task.prompt", cfg.prompt)
        self.response = Template("task.response", cfg.response)
        self.reference: str = cfg.reference
        self.is_right = ANSWERS[cfg.answer]
        self.average_over: str | None = cfg.average_over
        scored = [self.reference] + ([self.average_over] if self.average_over is not None else [])
        self.columns = tuple(dict.fromkeys([*self.prompt.columns, *self.response.columns, *scored]))
        self.asked = self.prompt.columns
        sections = (*self.prompt.optional, *self.response.optional)
        self.optional = tuple(one for one in dict.fromkeys(sections) if one not in self.columns)
        self.tokenizer = spec.tokenizer
        self.tokens = Tokens(spec.tokenizer)
        self._check_literals(getattr(spec.config.get_text_config(), "vocab_size", None))
        self.max_length = spec.max_length
        self.max_answer_length = spec.max_answer_length

    def _check_literals(self, vocabulary: int | None) -> None:
        for template in (self.prompt, self.response):
            ids = self.tokenizer(template.text, add_special_tokens=False)["input_ids"]
            if vocabulary is not None and max(ids, default=0) >= vocabulary:
                raise ValueError(
                    f"{template.key} has the token {self.tokenizer.decode([max(ids)])!r}, which is "
                    f"not in the model's vocabulary of {vocabulary}: leave it out"
                )

    @abstractmethod
    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, each [rows, tokens]."""

    @abstractmethod
    def prompts(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, each [rows, tokens]."""

    @abstractmethod
    def responses(self, inputs: dict[str, Tensor], generated: Tensor) -> list[list[int]]:
        """Return the tokens of each response.

        Parameters
        ----------
        inputs : dict of tensors
            See `prompts`.
        generated : tensor [rows, tokens]
            The tokens that the model's ``generate`` returns.
        """

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a value in a column, and values that are no texts.

        Raises
        ------
        FaultError
            With the number of such rows.
        """
        check_filled(self.columns, rows)
        for column in self.optional:
            if column in rows.column_names:
                check_kind(column, rows)

    def examples(self, rows: Rows) -> int:
        """Return the number of rows: each is one example."""
        return len(rows)

    def padded(self, ids: list[list[int]], left: bool = False) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` of token ids, each [rows, tokens]."""
        return {
            "input_ids": pad(ids, self.pad, left=left),
            "attention_mask": pad([[1] * len(one) for one in ids], 0, left=left),
        }

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """Return greedy responses, one per row, without special tokens."""
        texts: list[str] = []
        with evaluating(model):
            for some in batches(rows):
                inputs = self.prompts(some)
                ids = greedy(model, inputs, self.max_answer_length, self.pad, self.end)
                answers = self.responses(inputs, ids)
                texts += self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """Return ``accuracy``: the share of predictions with the reference's final answer.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none; or a reference is missing or is no
            text.
        """
        check_predictions(predictions, rows)
        groups: dict[Any, list[bool]] = {}
        for index, prediction in enumerate(predictions):
            row = rows[index]
            group = None if self.average_over is None else row[self.average_over]
            reference = text_of(row, self.reference)
            with during("reference", column=self.reference):
                right = self.is_right(prediction, reference)
            groups.setdefault(group, []).append(right)
        means = [sum(right) / len(right) for right in groups.values()]
        return {"accuracy": sum(means) / len(means)}
