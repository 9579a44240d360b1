"""Classification of a text or of a pair of texts, such as natural language inference."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.faults import FaultError
from fl_app.tasks import classes, metrics
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, batches, check_predictions, evaluating
from fl_app.tasks.filled import check_filled
from fl_app.tasks.labels import Labels
from fl_app.tasks.tokens import Tokens


class SequenceClassification:
    """A model with a classification head learns labels; a prediction is a label's name.

    Both texts together have at most ``max_length`` tokens; the longer one is cut.

    Parameters
    ----------
    cfg : DictConfig
        ``texts``, one or two columns; ``label``, the column of the label; ``labels``, their names;
        ``label_is``, whether a number in the column is a name or a position (see ``Labels``).
    spec : ModelSpec
        A model of as many outputs (``num_labels``).

    Raises
    ------
    ValueError
        The model has another number of outputs, or the tokenizer cannot pad.
    """

    def __init__(self, cfg: DictConfig, spec: ModelSpec) -> None:
        self.metrics = metrics.of(cfg)
        self.texts = [str(column) for column in cfg.texts]
        self.label: str = cfg.label
        names = [str(label) for label in cfg.labels]
        self.labels = Labels(names, cfg.label_is, dict(spec.config.id2label or {}))
        self.columns = (*self.texts, self.label)
        self.asked = tuple(self.texts)
        self.tokens = Tokens(spec.tokenizer)
        self.max_length = spec.max_length
        if spec.config.num_labels != len(names):
            raise ValueError(
                f"the model tells {spec.config.num_labels} classes apart, task.labels names "
                f"{len(names)}: {', '.join(names)}"
            )
        if spec.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token, which a classifier needs")

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a text or with an unknown label.

        Raises
        ------
        FaultError
            With the number of such rows, for the node's own log.
        """
        check_filled(self.columns, rows)
        unknown = [label for label in rows[self.label][:] if self.labels.name(label) is None]
        if unknown:
            raise FaultError(
                "label",
                f"rows whose {self.label} is none of task.labels: {len(unknown)}; "
                f"{self.labels.advice(unknown[0])}",
                column=self.label,
            )

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `inputs` of the rows, and ``labels`` [rows]."""
        outputs = [self.labels.outputs.index(self._name(row)) for row in rows]
        return {**self.inputs(rows), "labels": torch.tensor(outputs)}

    def inputs(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return what the tokenizer gives the model, each [rows, tokens], padded on the right."""
        texts = [[self._text(row, column) for row in rows] for column in self.texts]
        encoding = self.tokens(
            *texts,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        return dict(encoding)

    def examples(self, rows: Rows) -> int:
        """Return the number of rows: each is one example."""
        return len(rows)

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """Return the name of the likeliest label of each row."""
        return self.likeliest(self.logits(model, rows))

    def likeliest(self, logits: Tensor) -> list[str]:
        """Return the name of the likeliest label of each row."""
        return [self.labels.outputs[index] for index in logits.argmax(dim=-1).tolist()]

    def probabilities(self, logits: Tensor) -> list[dict[str, float]]:
        """Return the probability of each label, by its name, of each row."""
        found = logits.float().softmax(dim=-1).tolist()
        return [dict(zip(self.labels.outputs, row, strict=True)) for row in found]

    def logits(self, model: PreTrainedModel, rows: Rows) -> Tensor:
        """Return the outputs of the head, [rows, labels]."""
        device = next(model.parameters()).device
        found: list[Tensor] = []
        with evaluating(model):
            for some in batches(rows):
                inputs = {name: value.to(device) for name, value in self.inputs(some).items()}
                found.append(model(**inputs).logits.cpu())
        return torch.cat(found)

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """Return the scores of ``fl_app.tasks.classes``.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """
        check_predictions(predictions, rows)
        true = [self._name(rows[index]) for index in range(len(rows))]
        matrix = classes.confusion(predictions, true, self.labels.names)
        return {name: metric(matrix) for name, metric in classes.METRICS.items()}

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return nothing: the predictions say all."""
        return {}

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return the texts of each row, and its label."""
        return [
            (
                " | ".join(self._text(rows[index], one) for one in self.texts),
                self._name(rows[index]),
            )
            for index in range(len(rows))
        ]

    def _text(self, row: dict[str, Any], column: str) -> str:
        if row.get(column) is None:
            raise FaultError(
                "empty",
                f"task.texts: the column {column!r} of a row is missing or empty",
                column=column,
                rows=1,
            )
        return str(row[column])

    def _name(self, row: dict[str, Any]) -> str:
        """Return the name of a row's label."""
        label = row.get(self.label)
        name = self.labels.name(label)
        if name is None:
            raise FaultError(
                "label",
                f"the column {self.label!r} of a row is {label!r}, task.labels are "
                f"{', '.join(self.labels.names)}: {self.labels.advice(label)}",
                column=self.label,
            )
        return name
