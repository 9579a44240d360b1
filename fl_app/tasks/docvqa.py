"""Questions about documents, answered by VT5."""

from collections.abc import Sequence
from typing import Any, cast

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.tasks import anls
from fl_app.tasks.documents import Collator, predict
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.filled import check_filled


class DocVQA:
    """``fl_app.tasks.documents`` and ``fl_app.tasks.anls`` as a task; an example is a question.

    Args:
        cfg: has no options.
        model_config: a VT5's.
    """

    columns = ("words", "boxes", "questions", "answers")
    metrics = ("anls", "accuracy")

    def __init__(
        self,
        cfg: DictConfig,
        tokenizer: PreTrainedTokenizerFast,
        model_config: PreTrainedConfig,
        max_length: int,
        max_answer_length: int,
    ) -> None:
        if not isinstance(model_config, VT5Config):
            raise ValueError(f"task=docvqa needs a VT5, the model is a {model_config.model_type}")
        self.tokenizer = tokenizer
        self.collator = Collator(tokenizer, model_config, max_length)
        self.max_answer_length = max_answer_length

    def check(self, rows: Dataset) -> None:
        """Refuse rows with nothing in a column; FaultError says how many."""
        check_filled(self.columns, rows)

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """See ``Collator.training``."""
        return self.collator.training(rows)

    def examples(self, rows: Rows) -> int:
        """The questions of the rows."""
        return sum(len(row["questions"]) for row in rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """See ``fl_app.tasks.documents.predict``."""
        vt5 = cast(VT5ForConditionalGeneration, model)
        return predict(vt5, self.tokenizer, self.collator, rows, self.max_answer_length)

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """``anls`` and ``accuracy``, see ``fl_app.tasks.anls.score``."""
        return anls.score(predictions, [accepted for row in rows for accepted in row["answers"]])
