"""The rules of ``adapter``: what PEFT takes, and what an adapter says of its own options."""

from omegaconf import DictConfig

from fl_app import adapters
from fl_app.config.rules import (
    NAMES,
    POSITIVE,
    SHARE,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_list_of_names,
    is_name,
)

CHOICES: Choices = {"adapter.id": adapters.ADAPTERS}
RULES: Rules = (
    (POSITIVE, ("adapter.r", "adapter.alpha")),
    (SHARE, ("adapter.dropout",)),
    (
        Rule(
            "a name or a list of names, not empty",
            lambda x: is_name(x) or (is_list_of_names(x) and x != []),
        ),
        ("adapter.target_modules",),
    ),
    (NAMES, ("adapter.modules_to_save",)),
)


def check(cfg: DictConfig) -> None:
    """Check all that can be said without the model, with the chosen adapter's own ``check``.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    if own := getattr(adapters.RULES.get(cfg.adapter.id), "check", None):
        own(cfg)


def check_model(cfg: DictConfig) -> None:
    """Check what the chosen adapter says of the model's architecture, without its weights.

    Raises
    ------
    ValueError
        Naming the key and the architecture.
    """
    if own := getattr(adapters.RULES.get(cfg.adapter.id), "check_model", None):
        own(cfg)
