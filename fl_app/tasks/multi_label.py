"""Classification of a text or of a pair of texts with any number of labels a row."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from fl_app.tasks import label_sets
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, check_predictions
from fl_app.tasks.labels import Labels
from fl_app.tasks.text_classifier import TextClassifier


class MultiLabel(TextClassifier):
    """A row has a list of labels, and so has a prediction: those of a probability above a half.

    The loss is the mean binary cross-entropy of all labels, as transformers has it.

    Parameters
    ----------
    cfg : DictConfig
        ``labels``, their names; ``label_is``, whether a number in a list is a name or a position
        (see ``Labels``); others see `TextClassifier`.
    spec : ModelSpec
        A model with an output for each label.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        names = [str(label) for label in cfg.labels]
        super().__init__(cfg, spec, len(names))
        self.labels = Labels(names, cfg.label_is, dict(spec.config.id2label or {}))

    def target(self, label: Any) -> list[str]:
        """Return the names in a list, in the order of ``labels``; ValueError if it is no list."""
        if not isinstance(label, list):
            raise ValueError(
                f"it is {label!r}, and should be a list of labels, as jsonl and parquet have them"
            )
        found = {self.labels.known(one) for one in label}
        return [name for name in self.labels.names if name in found]

    def targets(self, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return 1 for the outputs of a row's labels and 0 for others, float32 [rows, labels]."""
        return torch.tensor(self._sets([self.right(row) for row in rows], self.labels.outputs))

    def answers(self, logits: Tensor) -> list[list[str]]:
        """Return the names of the labels of each row, in the order of ``labels``."""
        names = self.labels.names
        order = [self.labels.outputs.index(name) for name in names]
        return [
            [name for name, is_one in zip(names, row, strict=True) if is_one]
            for row in (logits[:, order] > 0).tolist()
        ]

    def probabilities(self, logits: Tensor) -> list[dict[str, float]]:
        """Return the probability of each label, by its name, of each row."""
        found = logits.float().sigmoid().tolist()
        return [dict(zip(self.labels.outputs, row, strict=True)) for row in found]

    def score(self, predictions: Sequence[list[str]], rows: Rows) -> dict[str, float]:
        """Return the scores of ``fl_app.tasks.label_sets``.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """
        check_predictions(predictions, rows)
        true = [self.right(rows[index]) for index in range(len(rows))]
        return label_sets.scores(
            *(torch.tensor(self._sets(some, self.labels.names)).bool().numpy()
              for some in (predictions, true))
        )  # fmt: skip

    def _sets(self, found: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[float]]:
        return [[float(name in some) for name in names] for some in found]
