"""The rules of ``task`` and ``target``: which tasks there are, and which rows and metrics fit."""

from omegaconf import DictConfig

from fl_app import data
from fl_app.config import ConfigError
from fl_app.config.rules import (
    NAME_OR_NULL,
    NUMBER_OR_NULL,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_list_of_names,
    is_name,
)
from fl_app.faults.suggestions import did_you_mean
from fl_app.tasks import FORMATS, PROBLEMS, TASKS, metrics
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.labels import LABEL_IS, is_number
from fl_app.tasks.template import Template

CHOICES: Choices = {
    "task.id": TASKS,
    "task.answer": ANSWERS,
    "task.label_is": LABEL_IS,
    "task.format": FORMATS,
    "task.problem_type": PROBLEMS,
}
RULES: Rules = (
    (
        Rule("the name of a column", is_name),
        ("task.reference", "task.label", "task.messages", "task.text"),
    ),
    (
        Rule("a list of one or two columns", lambda x: is_list_of_names(x) and len(x) in (1, 2)),
        ("task.texts",),
    ),
    (
        Rule("null, chatml or plain", lambda x: x in (None, "chatml", "plain")),
        ("task.template",),
    ),
    (NAME_OR_NULL, ("task.average_over",)),
    (NUMBER_OR_NULL, ("target.value",)),
)


def _names(least: int, said: str) -> Rule:
    return Rule(
        f"a list of at least {said}, with quotes where one is a number, true or false",
        lambda x: is_list_of_names(x) and len({*x}) == len(x) >= least,
    )


LABELS = {
    metrics.SINGLE: _names(2, "two different names"),
    metrics.MULTI: _names(1, "one name, all different"),
    metrics.REGRESSION: Rule("[] with task.problem_type=regression", lambda x: x == []),
}


def check(cfg: DictConfig) -> None:
    """Check all that can be said without rows or a tokenizer.

    Raises
    ------
    ValueError
        Names the key and what it may be.
    """
    check_choices(cfg, CHOICES)
    check_rules(
        cfg, (*RULES, (LABELS[cfg.task.get("problem_type", metrics.SINGLE)], ("task.labels",)))
    )
    if (cfg.task.id == "docvqa") != (cfg.data.id in data.DOCUMENTS):
        fit = "task=docvqa" if cfg.data.id in data.DOCUMENTS else "task=causal_lm or another"
        raise ConfigError(
            f"task.id={cfg.task.id} does not fit data.id={cfg.data.id}, whose rows are of another "
            f"kind: set {fit}"
        )
    known = metrics.of(cfg.task)
    if cfg.target.metric not in known:
        raise ConfigError(
            f"target.metric={cfg.target.metric} should be one of {sorted(known)} with "
            f"task.id={cfg.task.id}.{did_you_mean(cfg.target.metric, known)}"
        )
    _check_format(cfg.task)
    numbers = [name for name in cfg.task.get("labels", []) if is_number(name)]
    if cfg.task.get("label_is") == "index" and numbers:
        raise ConfigError(
            f"task.label_is=index: a number could be a name or a position, as task.labels has "
            f"{', '.join(numbers)}: set task.label_is=name"
        )
    for key in ("prompt", "response"):
        if key in cfg.task:
            Template(f"task.{key}", cfg.task[key])


def _check_format(task: DictConfig) -> None:
    """Refuse a format of rows for another kind of model."""
    if "format" not in task:
        return
    fit = "seq2seq" if task.format.endswith("seq2seq") else "causal_lm"
    if task.id != fit:
        raise ConfigError(f"task.format={task.format} needs task.id={fit}, not {task.id}")
    answer = task.get("unanswerable")
    if answer is not None and not (isinstance(answer, str) and answer.strip()):
        raise ConfigError(f"task.unanswerable={answer!r} should be null or a text")
