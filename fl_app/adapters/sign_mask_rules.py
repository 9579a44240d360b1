"""The rules of sign masks, see ``fl_app.adapters``."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import POSITIVE, Rule, Rules, check_rules, is_number, is_whole

MOST_ITERATIONS = 1000  # each sorts all entries, on every node; SynFlow has 100
RULES: Rules = (
    (POSITIVE, ("adapter.b_std", "adapter.init")),
    (
        Rule(
            f"a whole number from 1 to {MOST_ITERATIONS}",
            lambda x: is_whole(x, 1) and x <= MOST_ITERATIONS,
        ),
        ("adapter.iterations",),
    ),
    (Rule("in (0, 1]", lambda x: is_number(x) and 0 < x <= 1), ("adapter.density",)),
)


def check(cfg: DictConfig) -> None:
    """Check the options of the masks; ConfigError if one cannot be."""
    check_rules(cfg, RULES)
    if cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            f"model.quantization={cfg.model.quantization} has layers that adapter=sign_mask cannot "
            "put its factors beside: set model.quantization=none, or adapter=lora"
        )
