"""What all tasks of a model with a classification head have in common: texts, and logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.data.rows import numbers
from fl_app.faults import FaultError
from fl_app.tasks import metrics
from fl_app.tasks.as_text import as_text
from fl_app.tasks.base import ModelSpec
from fl_app.tasks.evaluation import Rows, batches, evaluating
from fl_app.tasks.filled import check_filled
from fl_app.tasks.tokens import Tokens


class TextClassifier(ABC):
    """A model with a classification head judges a text or a pair of texts.

    Both texts together have at most ``max_length`` tokens; the longer one is cut.

    Parameters
    ----------
    cfg : DictConfig
        ``texts``, one or two columns; ``label``, the column of what is learnt.
    spec : ModelSpec
        A model of as many outputs (``num_labels``).
    outputs : int
        The number of outputs.

    Attributes
    ----------
    is_text : bool
        Whether values of the label's column are texts, an attribute of the class.

    Raises
    ------
    ValueError
        The model has another number of outputs, or the tokenizer cannot pad.
    """

    is_text = False

    def __init__(self, cfg: DictConfig, spec: ModelSpec, outputs: int) -> None:
        self.metrics = metrics.of(cfg)
        self.texts = [str(column) for column in cfg.texts]
        self.label: str = cfg.label
        self.columns = (*self.texts, self.label)
        self.asked = tuple(self.texts)
        self.tokens = Tokens(spec.tokenizer)
        self.max_length = spec.max_length
        if spec.config.num_labels != outputs:
            names = ", ".join(map(str, cfg.labels))
            wanted = f"task.labels names {outputs}: {names}" if names else "a number is one output"
            raise ValueError(f"the model tells {spec.config.num_labels} classes apart, {wanted}")
        if spec.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token, which a classifier needs")

    @abstractmethod
    def target(self, label: Any) -> Any:
        """Return what a value of the label's column teaches.

        Raises
        ------
        ValueError
            If it teaches nothing; the message says why, and how rows can be mended.
        """

    @abstractmethod
    def targets(self, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return ``labels``, as transformers takes them for the problem's loss."""

    @abstractmethod
    def answers(self, logits: Tensor) -> list[Any]:
        """Return the prediction of each row, from [rows, outputs]."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], rows: Rows) -> dict[str, float]:
        """Return the scores.

        Raises
        ------
        ValueError
            There are not as many predictions as rows, or none.
        """

    def check(self, rows: Dataset) -> None:
        """Refuse rows without a text, or whose label teaches nothing.

        Raises
        ------
        FaultError
            With the numbers of such rows, for the node's own log.
        """
        check_filled(self.texts, rows)
        check_filled([self.label], rows, nested=not self.is_text)
        why: dict[int, str] = {}
        for index, value in enumerate(rows[self.label][:]):
            try:
                self.target(value)
            except ValueError as error:
                why[index] = str(error)
        if why:
            raise FaultError(
                "label",
                f"{len(why)} of {len(rows)} rows have a {self.label} that cannot be learnt: "
                f"{numbers([*why])}. Row {next(iter(why)) + 1}: "
                f"{next(iter(why.values()))}",
                column=self.label,
            )

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `inputs` of the rows, and ``labels``, a row each."""
        return {**self.inputs(rows), "labels": self.targets(rows)}

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

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[Any]:
        """Return the prediction of each row."""
        return self.answers(self.logits(model, rows))

    def logits(self, model: PreTrainedModel, rows: Rows) -> Tensor:
        """Return the outputs of the head, [rows, outputs]."""
        device = next(model.parameters()).device
        found: list[Tensor] = []
        with evaluating(model):
            for some in batches(rows):
                inputs = {name: value.to(device) for name, value in self.inputs(some).items()}
                found.append(model(**inputs).logits.cpu())
        return torch.cat(found)

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return nothing: the predictions say all."""
        return {}

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return the texts of each row, and what is right."""
        found = (rows[index] for index in range(len(rows)))
        return [
            (" | ".join(self._text(row, one) for one in self.texts), as_text(self.right(row)))
            for row in found
        ]

    def right(self, row: dict[str, Any]) -> Any:
        """Return what a row teaches.

        Raises
        ------
        FaultError
            If it teaches nothing.
        """
        label = row.get(self.label)
        try:
            return self.target(label)
        except ValueError as error:
            raise FaultError(
                "label", f"the column {self.label!r} of a row: {error}", column=self.label
            ) from None

    def _text(self, row: dict[str, Any], column: str) -> str:
        if row.get(column) is None:
            raise FaultError(
                "empty",
                f"task.texts: the column {column!r} of a row is missing or empty",
                column=column,
                rows=1,
            )
        return str(row[column])
