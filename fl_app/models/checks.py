"""The rules of ``model``: types of weights, and allowed paths."""

import re

from omegaconf import DictConfig

from fl_app import models
from fl_app.config.rules import (
    NAME_OR_NULL,
    POSITIVE,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_name,
)
from fl_app.models import sources

CHOICES: Choices = {
    "model.dtype": models.DTYPES,
    "model.head": models.HEADS,
    "model.quantization": models.QUANTIZATIONS,
}
RULES: Rules = (
    (POSITIVE, ("model.max_length", "model.max_answer_length")),
    (
        Rule(
            "embedded:NAME, a hub id (ORGANISATION/NAME), the absolute path of a folder, or random",
            is_name,
        ),
        ("model.path",),
    ),
    (NAME_OR_NULL, ("model.tokenizer", "model.visual_path")),
    (
        Rule(
            "null or a SHA-256 in hex",
            lambda x: x is None or re.fullmatch("[0-9a-f]{64}", str(x)) is not None,
        ),
        ("model.sha256",),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check the values, and that the named folders exist.

    Raises
    ------
    FileNotFoundError, ValueError
        If a value is not allowed; the message names the key and the allowed values.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    models.check_kind(cfg.model, cfg.task)
    sources.named(cfg.model)


def check_files(cfg: DictConfig) -> None:
    """Check what transformers has to say of the model: its files, and the keys of its config.

    Raises
    ------
    FileNotFoundError, ValueError
        If ``fl_app.models.load`` would fail without reading weights or contacting the hub.
    """
    models.find(cfg.model, cfg.task)
