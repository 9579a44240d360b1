"""The rules of ``adapter=tied``, see ``fl_app.adapters``."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import POSITIVE, Rule, Rules, check_rules, is_whole

RULES: Rules = (
    (
        Rule("a whole number, 0 for none", lambda x: is_whole(x, 0)),
        ("adapter.codes", "adapter.shared"),
    ),
    (POSITIVE, ("adapter.code_scale", "adapter.norm_scale")),
)


def check(cfg: DictConfig) -> None:
    """Check which parts are trained; ConfigError if PEFT has the same without a part of ours."""
    check_rules(cfg, RULES)
    if not (cfg.adapter.codes or cfg.adapter.shared):
        raise ConfigError(
            "adapter=tied with adapter.codes=0 and adapter.shared=0 has no part but norms: set one "
            "of them, or adapter=peft adapter.method=LN_TUNING"
        )
