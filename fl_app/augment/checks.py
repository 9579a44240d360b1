"""The rules of ``augment``."""

from omegaconf import DictConfig

from fl_app.augment import AUGMENTS, NONE, TASKS
from fl_app.config import ConfigError
from fl_app.config.rules import SHARE, Choices, Rule, Rules, check_choices, check_rules, is_whole

CHOICES: Choices = {"augment.id": [NONE, *AUGMENTS]}
RULES: Rules = (
    (SHARE, ("augment.scale",)),
    (Rule("a whole number in 0..1000", lambda x: is_whole(x, 0) and x <= 1000), ("augment.shift",)),
)


def check(cfg: DictConfig) -> None:
    """Check that the augmentation is one for the task; ConfigError if not."""
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    if cfg.augment.id == NONE or cfg.task.id in TASKS[cfg.augment.id]:
        return
    fit = [name for name, tasks in TASKS.items() if cfg.task.id in tasks]
    raise ConfigError(
        f"augment.id={cfg.augment.id} is for task.id={' or '.join(TASKS[cfg.augment.id])}, and "
        f"task.id={cfg.task.id} has {' and '.join(fit) or 'no augmentation'}: set "
        f"augment={fit[0] if fit else NONE}"
    )
