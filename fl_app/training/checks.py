"""The rules of local training: ``optimizer``, epochs and batches."""

from omegaconf import DictConfig

from fl_app.config.rules import (
    NOT_NEGATIVE,
    POSITIVE,
    UNIT,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_number,
    is_share,
)
from fl_app.training import turns
from fl_app.training.optimizers import GRAFTS, OPTIMIZERS, SCHEDULES

CHOICES: Choices = {
    "optimizer.id": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "optimizer.graft": GRAFTS,
}
RULES: Rules = (
    (
        Rule(
            "a list of mappings, one for each round",
            lambda x: isinstance(x, list) and all(isinstance(turn, dict) for turn in x),
        ),
        ("turns",),
    ),
    (
        POSITIVE,
        (
            "local_epochs", "batch_size", "gradient_accumulation",
            "optimizer.lr", "optimizer.max_grad_norm",
            "optimizer.root_interval", "optimizer.block_size",
        ),
    ),
    (NOT_NEGATIVE, ("optimizer.eps", "optimizer.weight_decay")),
    (UNIT, ("optimizer.warmup", "optimizer.decay")),
    (
        Rule("null or less than 0", lambda x: x is None or (is_number(x) and x < 0)),
        ("optimizer.exponent",),
    ),
    (
        Rule(
            "a list of two numbers in [0, 1)",
            lambda x: isinstance(x, list) and len(x) == 2 and all(map(is_share, x)),
        ),
        ("optimizer.betas",),
    ),
)  # fmt: skip


def check(cfg: DictConfig) -> None:
    """Check the options of local training.

    Raises
    ------
    ConfigError
        If a value is not allowed; the message names the key and the allowed values.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    for one in turns.check(cfg):
        check_choices(one, CHOICES)
        check_rules(one, RULES)
