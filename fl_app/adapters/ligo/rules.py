"""The rules of ``adapter=ligo``, see ``fl_app.adapters``; read before a model is."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import NOT_NEGATIVE, Choices, Rules, check_choices, check_rules

STACK, INTERLACE = DEPTHS = ("stack", "interlace")
RANDOM, SELECT = WIDTHS = ("random", "select")
CHOICES: Choices = {"adapter.depth": DEPTHS, "adapter.width": WIDTHS}
RULES: Rules = ((NOT_NEGATIVE, ("adapter.noise",)),)


def check(cfg: DictConfig) -> None:
    """Check the options; ConfigError if one cannot be, or others do not go with it."""
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    if not cfg.adapter.config:
        raise ConfigError(
            "adapter=ligo needs the larger model's sizes: set adapter.config, for example "
            "adapter.config={num_hidden_layers: 6}"
        )
    if (bits := cfg.model.get("quantization", "none")) != "none":
        raise ConfigError(
            f"adapter=ligo mixes the base's weights, which model.quantization={bits} packs: set "
            "model.quantization=none"
        )
    if cfg.privacy.id == "dp_sgd":
        raise ConfigError(
            "privacy=dp_sgd needs the gradient of each row, and adapter=ligo trains what computes "
            "the weights of all layers: choose another adapter, or privacy=none"
        )


def check_model(cfg: DictConfig) -> None:
    """Check the larger model's sizes; ValueError if it cannot be grown from the base."""
    from fl_app.adapters.ligo.adapter import check_sizes
    from fl_app.models.auto import outline

    if cfg.task.id != "docvqa" and (model := outline(cfg.model, cfg.task)) is not None:
        check_sizes(model, cfg.adapter)
