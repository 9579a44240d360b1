"""Classification of a text or of a pair of texts, such as natural language inference."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from fl_app.tasks import classes
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, check_predictions
from fl_app.tasks.labels import Labels
from fl_app.tasks.text_classifier import TextClassifier


class SequenceClassification(TextClassifier):
    """A row has one label, and a prediction is a label's name. The loss is the cross-entropy.

    Parameters
    ----------
    cfg : DictConfig
        ``labels``, their names; ``label_is``, whether a number in the column is a name or a
        position (see ``Labels``); others see `TextClassifier`.
    spec : ModelSpec
        A model with an output for each label.
    """

    is_text = True

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        names = [str(label) for label in cfg.labels]
        super().__init__(cfg, spec, len(names))
        self.labels = Labels(names, cfg.label_is, dict(spec.config.id2label or {}))

    @property
    def classes(self) -> list[str]:
        """Return the labels of the confusion matrix."""
        return self.labels.names

    def target(self, label: Any) -> str:
        """Return the name of a label; ValueError if it is none of ``labels``."""
        return self.labels.known(label)

    def targets(self, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return the output of each row's label, int64 [rows]."""
        return torch.tensor([self.labels.outputs.index(self.right(row)) for row in rows])

    def answers(self, logits: Tensor) -> list[str]:
        """Return the name of the likeliest label of each row."""
        return [self.labels.outputs[index] for index in logits.argmax(dim=-1).tolist()]

    def probabilities(self, logits: Tensor) -> list[dict[str, float]]:
        """Return the probability of each label, by its name, of each row."""
        found = logits.float().softmax(dim=-1).tolist()
        return [dict(zip(self.labels.outputs, row, strict=True)) for row in found]

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """Return the scores of ``fl_app.tasks.classes``.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """
        check_predictions(predictions, rows)
        true = [self.right(rows[index]) for index in range(len(rows))]
        matrix = classes.confusion(predictions, true, self.labels.names)
        return {name: metric(matrix) for name, metric in classes.METRICS.items()}
