"""What a table's first rows show: columns that the configuration misnames, or leaves out."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from fl_app.config import SPLITS, ConfigError, plain
from fl_app.data.head import Head, head
from fl_app.data.kinds import TEXTS, kind_of_type, said
from fl_app.faults.printable import printable
from fl_app.faults.suggestions import did_you_mean
from fl_app.tasks import metrics, named
from fl_app.tasks.template import has_text

logger = logging.getLogger("thinwire")

# What is asked, by the columns of published formats: a prompt without one of them may ask of
# nothing. Alpaca (Taori et al. 2023), with the system text and history that LLaMA-Factory adds;
# Dolly (Conover et al. 2023); OpenOrca (Lian et al. 2023); SQuAD and PubMedQA; BoolQ; MMLU and ARC.
FORMATS = (
    ("Alpaca", ("instruction", "input", "system", "history")),
    ("Dolly", ("instruction", "context")),
    ("OpenOrca", ("system_prompt", "question")),
    ("prompt and completion", ("system", "prompt")),
    ("SQuAD", ("context", "question")),
    ("BoolQ", ("passage", "question")),
    ("MMLU", ("question", "choices")),
)

OTHER = (  # the columns of published formats, and the task that reads them
    (("messages",), "chat", "conversations"),
    (("conversations",), "chat task.messages=conversations", "ShareGPT's conversations"),
    (("instruction", "output"), "alpaca", "Alpaca"),
    (("question", "context", "answers"), "squad", "SQuAD"),
    (("prompt", "completion"), "prompt_completion", "prompts and completions"),
)


def check(cfg: DictConfig) -> None:
    """Check the columns of a run's tables on this machine, and warn of those that are left out.

    Raises
    ------
    ConfigError
        Names the option, the column, and the columns that exist.
    FileNotFoundError, ValueError
        If a file cannot be read.
    """
    if cfg.data.id != "table":
        return
    used = named.columns(cfg.task)
    heads = {
        split: found
        for split in SPLITS
        if cfg.data[split].path is not None
        and (found := head(f"data.{split}", cfg.data[split])) is not None
    }
    for split, found in heads.items():
        own = cfg.data.partitioner.get("column") if split == "train" else None
        wanted = used if own is None else {**used, str(own): "data.partitioner.column"}
        _check(cfg, split, found, wanted)
    unread = {(cfg.data[split].path, name) for split, one in heads.items() for name in one.unread}
    if unread:
        logger.warning(
            "no split has these files, and they are not read: %s",
            printable(", ".join(str(Path(path) / name) for path, name in sorted(unread))),
        )
    asked = {*used, *named.optional(cfg.task)}
    if "prompt" in cfg.task and (left := _left_out([*heads.values()], asked)):
        logger.warning(
            "the rows have %s, which no template names: rows that differ there alone look alike to "
            "the model. Name them in task.prompt, or rename them with data.train.columns "
            "and data.test.columns",
            printable(left),
        )


def _check(cfg: DictConfig, split: str, found: Head, wanted: dict[str, str]) -> None:
    names = found.schema.names
    for column, option in wanted.items():
        if column not in names:
            if not found.has_header and (cfg.data[split].drop or column in cfg.data.empty):
                continue  # the first rows may be those without it
            other = [one for one in names[0] if one in ";\t|"] if len(names) == 1 else []
            hint = f" Its cells seem to be divided by {other[0]!r}: use commas." if other else ""
            hint = hint or did_you_mean(column, names) or _other_task(names)
            raise ConfigError(
                f"{option} names the column {column!r}, which data.{split}.path="
                f"{cfg.data[split].path!r} lacks; its columns are {', '.join(names)}."
                f"{hint} Rename one with "
                f"+data.{split}.columns.NAME={column}, or name another in {option}"
            )
        kind = kind_of_type(found.schema.field(column).type)
        if kind in ("lists", "mappings") and column == _nested(cfg.task):
            continue  # rows say whether it is in order
        problem = _problem(kind) if option == "task.label" else None
        if problem is not None and cfg.task.get("problem_type") == problem:
            continue
        if kind and kind not in TEXTS and column not in plain(cfg.data.formats):
            whole = said(f"{option}, in data.{split}", column, kind)["whole"]
            raise ConfigError(
                whole if problem is None else f"{whole}; or set task.problem_type={problem}"
            )


def _problem(kind: str) -> str | None:
    """Return the problem of a classifier whose labels are of a kind that is no text."""
    return {"floats": metrics.REGRESSION, "lists": metrics.MULTI}.get(kind)


def _nested(task: DictConfig) -> str | None:
    """Return the column of the task that holds no texts; None: it has none."""
    if task.get("format") is None:
        return None
    return str(task.messages if "messages" in task else task.reference)


def _other_task(names: list[str]) -> str:
    """Return which task reads rows with these columns; "" if none is known for them."""
    if names == ["text"]:
        return " The rows are plain text: use task=text."
    for columns, task, what in OTHER:
        if {*columns} <= {*names}:
            return f" The columns are those of {what}: use task={task}."
    return ""


def _left_out(heads: list[Head], asked: set[str]) -> str:
    """Return the columns of published formats that are in the rows and in no template."""
    found: dict[str, str] = {}
    for one in heads:
        for name, columns in FORMATS:
            if any(one.names.get(column) in asked for column in columns):
                for column in columns:
                    new = one.names.get(column)
                    if new and new not in asked and any(has_text(r.get(column)) for r in one.rows):
                        found.setdefault(column, name)
    return ", ".join(f"the column {column!r} of {name}" for column, name in found.items())
