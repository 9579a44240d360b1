"""Questions about documents, answered by VT5."""

from collections.abc import Sequence
from typing import Any, cast

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.tasks import anls, metrics
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.documents import Collator, predict
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.filled import check_filled


class DocVQA:
    """``fl_app.tasks.documents`` and ``fl_app.tasks.anls`` as a task; an example is a question.

    Parameters
    ----------
    cfg : DictConfig
        Has no options.
    spec : ModelSpec
        A VT5.

    Raises
    ------
    ValueError
        Another model.
    """

    columns = ("words", "boxes", "questions", "answers")
    asked = ("words", "boxes", "questions")

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        if not isinstance(spec.config, VT5Config):
            raise ValueError(f"task=docvqa needs a VT5, the model is a {spec.config.model_type}")
        self.metrics = metrics.of(cfg)
        self.tokenizer = spec.tokenizer
        self.collator = Collator(spec.tokenizer, spec.config, spec.max_length)
        self.max_answer_length = spec.max_answer_length

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a value in a column.

        Raises
        ------
        FaultError
            With the number of such rows.
        """
        check_filled(self.columns, rows, nested=True)

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """See ``Collator.training``."""
        return self.collator.training(rows)

    def examples(self, rows: Rows) -> int:
        """Return the number of questions of the rows."""
        return sum(len(row["questions"]) for row in rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """See ``fl_app.tasks.documents.predict``."""
        vt5 = cast(VT5ForConditionalGeneration, model)
        return predict(vt5, self.tokenizer, self.collator, rows, self.max_answer_length)

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return each question, and its accepted answers."""
        return [
            (question, " | ".join(answers))
            for index in range(len(rows))
            for row in [rows[index]]
            for question, answers in zip(row["questions"], row["answers"], strict=True)
        ]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """Return ``anls`` and ``accuracy``, see ``fl_app.tasks.anls.score``."""
        return anls.score(predictions, [accepted for row in rows for accepted in row["answers"]])

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return nothing: the predictions say all."""
        return {}
