"""What a model is trained to do: from rows to batches, to predictions, to a score.

A task is made of the ``task`` group of the configuration, the model's tokenizer and its config.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fl_app.faults import FaultError
from fl_app.tasks.causal_lm import CausalLM
from fl_app.tasks.docvqa import DocVQA
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.seq2seq import Seq2Seq
from fl_app.tasks.sequence_classification import SequenceClassification

__all__ = ["TASKS", "Rows", "Task", "build", "check_columns"]


class Task(Protocol):
    """Between the data and a model.

    Attributes:
        columns: what a row must have, to train and to score.
        metrics: the names in a score, of the class; the first one is the task's own.
    """

    columns: tuple[str, ...]
    metrics: tuple[str, ...]

    def check(self, rows: Dataset) -> None:
        """Refuse rows that cannot be learnt from, with a FaultError that counts them."""

    def training(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Arguments of the model's ``forward``, which returns the loss."""

    def examples(self, rows: Rows) -> int:
        """How many examples rows hold: what a client's update is weighted by."""

    def predict(self, model: PreTrainedModel, rows: Rows) -> list[str]:
        """One prediction per example, in order, without randomness; the mode is restored."""

    def score(self, predictions: Sequence[str], rows: Rows) -> dict[str, float]:
        """``metrics`` in [0, 1]; every task has ``accuracy``."""


TASKS: dict[str, type[Any]] = {
    "causal_lm": CausalLM,
    "docvqa": DocVQA,
    "seq2seq": Seq2Seq,
    "sequence_classification": SequenceClassification,
}


def build(
    cfg: DictConfig, tokenizer: PreTrainedTokenizerFast, model_config: PreTrainedConfig
) -> Task:
    """The task that ``cfg.task.id`` names.

    Args:
        cfg: the whole configuration: the group ``task``, and of ``model`` the tokens of an input
            (``max_length``) and of an answer (``max_answer_length``).

    Raises:
        ValueError: unknown id, or an option that does not fit the model.
    """
    if cfg.task.id not in TASKS:
        raise ValueError(f"unknown task id {cfg.task.id!r}; known: {', '.join(sorted(TASKS))}")
    task: Task = TASKS[cfg.task.id](
        cfg.task, tokenizer, model_config, cfg.model.max_length, cfg.model.max_answer_length
    )
    return task


def check_columns(task: Task, split: str, rows: Dataset) -> None:
    """Refuse a split that lacks a column of the task.

    Raises:
        ValueError: naming the columns that are missing and those that there are.
    """
    missing = sorted({*task.columns} - {*rows.column_names})
    if missing:
        raise FaultError(
            "columns",
            f"the split {split!r} lacks {', '.join(missing)}; it has "
            f"{', '.join(rows.column_names)}: map one with data.{split}.columns, or name another "
            "in the task",
            missing=", ".join(missing),
        )
