"""The rules of ``output`` and ``logger``: the destinations of a run's results."""

import re
from typing import Any

from omegaconf import DictConfig

from fl_app.config.rules import (
    NAME,
    NAME_OR_NULL,
    NAMES,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_name,
)
from fl_app.runs import loggers
from fl_app.runs.bases import BASES
from fl_app.wire.conventions import COLUMNS


def _is_folder_name(value: Any) -> bool:
    return re.fullmatch(r"[^/\\\0]+", str(value)) is not None and str(value) not in (".", "..")


CHOICES: Choices = {
    "logger.wandb.mode": loggers.MODES,
    "output.base": BASES,
    "output.convention": COLUMNS,
}
RULES: Rules = (
    (Rule("the path of a folder", is_name), ("output.dir",)),
    (
        Rule(
            "null or the name of a folder, without / and \\",
            lambda x: x is None or (isinstance(x, (str, int)) and _is_folder_name(x)),
        ),
        ("output.name",),
    ),
    (NAME, ("logger.wandb.project", "logger.mlflow.experiment_name")),
    (NAME_OR_NULL, ("logger.wandb.entity", "logger.wandb.group")),
    (NAMES, ("logger.wandb.tags",)),
    (  # with other schemes MLflow would import a module, or write to any file
        Rule(
            "null or the http:// or https:// address of a server",
            lambda x: x is None or re.fullmatch(r"https?://\S+", str(x)) is not None,
        ),
        ("logger.mlflow.tracking_uri",),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check the options of results; ``loggers.check`` checks whether a logger can start.

    Raises
    ------
    ConfigError
        If a value is not allowed; the message names the key and the allowed values.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
