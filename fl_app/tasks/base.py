"""What a task is, and what it knows of its model."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fl_app.tasks.evaluation import Rows


class ModelSpec(NamedTuple):
    """What a task knows of its model before there are weights.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's own.
    config : PreTrainedConfig
        The model's own.
    max_length : int
        Tokens of an input at most.
    max_answer_length : int
        Tokens of an answer at most.
    """

    tokenizer: PreTrainedTokenizerFast
    config: PreTrainedConfig
    max_length: int
    max_answer_length: int


class Task(Protocol):
    """From rows to batches, to predictions, to a score.

    It is made of the group ``task`` of the configuration and a `ModelSpec`.

    Attributes
    ----------
    columns : tuple of str
        The columns of a row that training and scoring need.
    asked : tuple of str
        Those that a prediction needs.
    metrics : tuple of str
        The names in its scores, see ``fl_app.tasks.metrics``.
    """

    columns: tuple[str, ...]
    asked: tuple[str, ...]
    metrics: tuple[str, ...]

    def check(self, rows: Dataset) -> None:
        """Refuse rows that cannot be learnt from.

        Raises
        ------
        FaultError
            With the number of such rows.
        """

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the arguments of the model's ``forward``, which returns the loss."""

    def examples(self, rows: Rows) -> int:
        """Return the number of examples in rows, which weighs a client's update."""

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[Any]:
        """Return one prediction per example, which JSON can hold, in order, without randomness.

        The model's mode is restored.
        """

    def score(self, predictions: Sequence[Any], rows: Rows) -> dict[str, float]:
        """Return those of ``metrics`` that the predictions say."""

    def measure(self, model: PreTrainedModel, rows: Rows) -> dict[str, float]:
        """Return the other ones of ``metrics``, which ask the model itself.

        Its mode is restored.
        """

    def shown(self, rows: Rows) -> list[tuple[str, str]]:
        """Return what each example asks, and its right answer, as texts for people."""


@runtime_checkable
class Cuts(Protocol):
    """A task whose rows may be too long for a batch: they are trained in pieces."""

    def cut(self, rows: Rows) -> Sequence[Any]:
        """Return the pieces of all rows, which ``Task.training`` takes as it takes rows."""
