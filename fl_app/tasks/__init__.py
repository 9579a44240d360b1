"""What a model is trained to do: from rows to batches, to predictions, to a score."""

from typing import Any

from datasets import Dataset
from omegaconf import DictConfig
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from fl_app.faults import FaultError
from fl_app.tasks.base import ModelSpec, Task
from fl_app.tasks.causal_lm import CausalLM
from fl_app.tasks.docvqa import DocVQA
from fl_app.tasks.evaluation import Rows
from fl_app.tasks.seq2seq import Seq2Seq
from fl_app.tasks.sequence_classification import SequenceClassification

__all__ = ["TASKS", "ModelSpec", "Rows", "Task", "build", "check_columns"]

TASKS: dict[str, type[Any]] = {
    "causal_lm": CausalLM,
    "docvqa": DocVQA,
    "seq2seq": Seq2Seq,
    "sequence_classification": SequenceClassification,
}


def build(
    cfg: DictConfig, tokenizer: PreTrainedTokenizerFast, model_config: PreTrainedConfig
) -> Task:
    """Return the task that ``cfg.task.id`` names.

    Parameters
    ----------
    cfg : DictConfig
        The whole configuration: the group ``task``, and of ``model`` the most tokens of an input
        (``max_length``) and of an answer (``max_answer_length``).

    Raises
    ------
    ValueError
        Unknown id, or an option that does not fit the model.
    """
    if cfg.task.id not in TASKS:
        raise ValueError(f"unknown task id {cfg.task.id!r}; known: {', '.join(sorted(TASKS))}")
    limits = cfg.model.max_length, cfg.model.max_answer_length
    task: Task = TASKS[cfg.task.id](cfg.task, ModelSpec(tokenizer, model_config, *limits))
    return task


def check_columns(task: Task, split: str, rows: Dataset) -> None:
    """Refuse a split that lacks a column of the task.

    Raises
    ------
    FaultError
        Names the missing columns and the existing ones.
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
