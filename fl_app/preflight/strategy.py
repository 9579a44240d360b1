"""Checks of the server's half of a method: what can be said only of the strategy that was built."""

from omegaconf import DictConfig

from fl_app.aggregation.inner import inner_strategy
from fl_app.aggregation.mean import is_mean_type
from fl_app.aggregation.sampling import SAMPLERS
from fl_app.config import ConfigError
from fl_app.secure_aggregation.settings import is_on as is_secure


def check_strategy(cfg: DictConfig) -> None:
    """Check the strategy with the rest of the configuration, where it will be built.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    if cfg.strategy.sampler not in SAMPLERS:
        raise ConfigError(
            f"strategy.sampler={cfg.strategy.sampler} should be one of {sorted(SAMPLERS)}"
        )
    try:
        _check(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check(cfg: DictConfig) -> None:
    strategy = inner_strategy(cfg)
    if check := getattr(strategy, "check", None):
        check(cfg)
    if is_secure(cfg) and not is_mean_type(strategy):
        raise ConfigError(
            f"strategy.inner={cfg.strategy.inner._target_} looks at single updates, which secure "
            "aggregation hides: use flwr.serverapp.strategy.FedAvg or another mean"
        )
