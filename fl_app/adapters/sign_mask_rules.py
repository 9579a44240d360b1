"""The rules of sign masks, see ``fl_app.adapters``."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import POSITIVE, Rule, Rules, check_rules, is_number

RULES: Rules = (
    (POSITIVE, ("adapter.b_std", "adapter.init", "adapter.iterations")),
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
