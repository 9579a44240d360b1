"""What a model is trained to do: from rows to batches, to predictions, to a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fl_app.config.named import Named
from fl_app.faults import FaultError
from fl_app.faults.suggestions import did_you_mean

if TYPE_CHECKING:  # torch and transformers are imported with the first task
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from fl_app.tasks.base import Task

TASKS: Mapping[str, type[Any]] = Named(
    {
        "causal_lm": "fl_app.tasks.causal_lm:CausalLM",
        "docvqa": "fl_app.tasks.docvqa:DocVQA",
        "seq2seq": "fl_app.tasks.seq2seq:Seq2Seq",
        "sequence_classification": "fl_app.tasks.sequence_classification:SequenceClassification",
    }
)
# Rows of other forms than a prompt and a response, for tasks of the same models: ``task.format``.
FORMATS: Mapping[str, type[Any]] = Named(
    {
        "chat": "fl_app.tasks.chat:Chat",
        "squad": "fl_app.tasks.squad:Squad",
        "squad_seq2seq": "fl_app.tasks.squad:SquadSeq2Seq",
        "text": "fl_app.tasks.text:Text",
    }
)
# Of classifiers by ``task.problem_type``, as transformers names it.
PROBLEMS: Mapping[str, type[Any]] = Named(
    {
        "single_label_classification": (
            "fl_app.tasks.sequence_classification:SequenceClassification"
        ),
        "regression": "fl_app.tasks.regression:Regression",
        "multi_label_classification": "fl_app.tasks.multi_label:MultiLabel",
    }
)


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
    from fl_app.tasks.base import ModelSpec

    limits = cfg.model.max_length, cfg.model.max_answer_length
    made = TASKS[cfg.task.id]
    for key, known in (("format", FORMATS), ("problem_type", PROBLEMS)):
        made = known[cfg.task[key]] if key in cfg.task else made
    task: Task = made(cfg.task, ModelSpec(tokenizer, model_config, *limits))
    return task


def check_rows(
    task: Task, split: str, rows: Dataset, options: Mapping[str, str] | None = None
) -> None:
    """Refuse a split that the task cannot learn from or be scored on; see `check_columns`.

    Raises
    ------
    FaultError
        See `check_columns` and ``Task.check``; the message names the split.
    """
    check_columns(task, split, rows, options)
    try:
        task.check(rows)
    except FaultError as error:
        error.args = (f"data.{split}: {error}",)
        raise


def check_columns(
    task: Task, split: str, rows: Dataset, options: Mapping[str, str] | None = None
) -> None:
    """Refuse a split that lacks a column of the task.

    Parameters
    ----------
    options : mapping of str to str, optional
        Columns -> the option that names each, which the message then names.

    Raises
    ------
    FaultError
        Names the missing columns and the existing ones.
    """
    missing = sorted({*task.columns} - {*rows.column_names})
    if missing:
        by = [(options or {}).get(one) for one in missing]
        names = [
            one if key is None else f"{one} ({key})" for one, key in zip(missing, by, strict=True)
        ]
        raise FaultError(
            "columns",
            f"the split {split!r} lacks {', '.join(names)}; it has "
            f"{', '.join(rows.column_names)}: name another in "
            f"{' and '.join(dict.fromkeys(filter(None, by))) or 'the task'}, or map one with "
            f"data.{split}.columns.{did_you_mean(missing[0], rows.column_names)}",
            missing=", ".join(missing),
        )
