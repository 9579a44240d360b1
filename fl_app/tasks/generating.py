"""What all generating tasks have in common: limits, greedy answers and their score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.data.padding import pad
from fl_app.faults import during
from fl_app.tasks import free_text, metrics
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, batches, check_predictions, evaluating, greedy
from fl_app.tasks.likelihood import perplexity
from fl_app.tasks.tokens import Tokens


class Generating(ABC):
    """A model learns to write answers, which are compared with references.

    Parameters
    ----------
    cfg : DictConfig
        ``answer``, how answers are found and compared (``fl_app.tasks.answers``);
        ``average_over``, a column: accuracy is then the mean over its values of the mean over the
        rows of each, as in tables over several test sets (null: the mean over all rows).
    spec : ModelSpec
        The model.
    reference : str
        The column of the right answers.
    """

    end: int  # token ids
    pad: int

    def __init__(self, cfg: DictConfig, spec: ModelSpec, reference: str) -> None:
        self.metrics = metrics.of(cfg)
        self.reference = reference
        self.is_right = ANSWERS[cfg.answer]
        self.average_over: str | None = cfg.average_over
        self.tokenizer = spec.tokenizer
        self.tokens = Tokens(spec.tokenizer)
        self.max_length = spec.max_length
        self.max_answer_length = spec.max_answer_length

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

    @abstractmethod
    def references(self, row: Mapping[str, Any]) -> list[str]:
        """Return the right answers of a row, of which each is enough."""

    @abstractmethod
    def question(self, row: Mapping[str, Any]) -> str:
        """Return what a row asks, for people."""

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return what each row asks, and its right answers."""
        found = (rows[index] for index in range(len(rows)))
        return [(self.question(row), " | ".join(self.references(row))) for row in found]

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
        """Return ``accuracy``, the share of predictions with the reference's final answer.

        Where answers are free texts, also ``rouge_l`` and ``token_f1``. With ``average_over`` each
        is a mean over groups.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none; or a reference is missing or is no
            text.
        """
        check_predictions(predictions, rows)
        groups: dict[Any, tuple[list[str], list[list[str]]]] = {}
        for index, prediction in enumerate(predictions):
            row = rows[index]
            group = None if self.average_over is None else row[self.average_over]
            said, right = groups.setdefault(group, ([], []))
            said.append(prediction)
            right.append(self.references(row))
        scores = [self._scores(said, right) for said, right in groups.values()]
        return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return ``perplexity``, where the model is a causal one."""
        if metrics.PERPLEXITY not in self.metrics:
            return {}
        return {metrics.PERPLEXITY: perplexity(model, self.training, rows)}

    def _scores(self, said: list[str], right: list[list[str]]) -> dict[str, float]:
        with during("reference", column=self.reference):
            correct = [
                any(self.is_right(prediction, one) for one in references)
                for prediction, references in zip(said, right, strict=True)
            ]
        found = {metrics.ACCURACY: sum(correct) / len(correct)}
        for name, scored in FREE_TEXT.items():
            if name in self.metrics:
                found[name] = scored(said, right)
        return found


FREE_TEXT = {"rouge_l": free_text.rouge_l, "token_f1": free_text.token_f1}
