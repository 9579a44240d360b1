"""The rules of full fine-tuning, see ``fl_app.adapters``."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import NAMES, Rules, check_rules

RULES: Rules = ((NAMES, ("adapter.freeze",)),)


def check(cfg: DictConfig) -> None:
    """Check that all weights can be trained; ConfigError if not."""
    check_rules(cfg, RULES)
    if cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            f"model.quantization={cfg.model.quantization} freezes what adapter=full trains: set "
            "adapter=lora or adapter=lora_sb, or model.quantization=none"
        )
