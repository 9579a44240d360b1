"""The rules of ``strategy``, which is built for them: a node, which builds none, has no part here.

What a strategy asks of the rest of the configuration it says itself, in its own ``check(cfg)``.
"""

from omegaconf import DictConfig

from fl_app.aggregation.sampling import SAMPLERS
from fl_app.config import ConfigError, nested_strategies, plain
from fl_app.config.rules import Choices, check_choices
from fl_app.secure_aggregation.settings import is_on as is_secure
from fl_app.wire.messages import BY_NODE

CHOICES: Choices = {"strategy.sampler": SAMPLERS}


def check(cfg: DictConfig) -> None:
    """Check what can be said without the strategy.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    check_choices(cfg, CHOICES)
    pulls = any("proximal_mu" in one for one in nested_strategies(cfg))
    if pulls and (cfg.strategy.get("local") or {}).get("mu") is None:
        raise ConfigError(
            "strategy.inner has a proximal_mu, and no client would pull its model: set "
            "strategy=fedprox, whose strategy.local does"
        )


def check_strategy(cfg: DictConfig) -> None:
    """Build both halves of the strategy, and check them with the rest of the configuration.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    from fl_app.aggregation.inner import class_of, inner_strategy  # Flower, and its own imports
    from fl_app.aggregation.mean import is_mean_class

    if is_secure(cfg) and not is_mean_class(class_of(plain(cfg.strategy.inner))):
        raise ConfigError(
            f"strategy.inner={cfg.strategy.inner._target_} needs more of a round than the mean of "
            "the clients' models, which is all that secure aggregation shows: use "
            "flwr.serverapp.strategy.FedAvg or another mean"
        )
    strategy = inner_strategy(cfg)
    if own := getattr(strategy, "check", None):
        own(cfg)
    if (local := cfg.strategy.get("local")) is not None:
        from fl_app.training.local import LocalMethod, local_method  # torch

        method = type(local_method(plain(local)))
        if cfg.federation.sampling == BY_NODE and method.start is not LocalMethod.start:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but strategy.local={method.__name__} remembers "
                "something of each client: set it to partitions"
            )
