"""Checks of the server's half of a method: what can be said only of the strategy that was built."""

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.secure_aggregation.settings import is_on as is_secure
from strategies.fed_sb import FedSB
from strategies.fedex_lora import FedExLoRA
from strategies.flex_lora import FlexLoRA
from strategies.flora import FLoRA
from strategies.inner import inner_strategy
from strategies.mean import is_mean_type
from strategies.robust import Robust, TooManyHostileError
from strategies.sampling import SAMPLERS
from strategies.single_client import SingleClient


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
    if isinstance(strategy, FedSB) and cfg.adapter.id != "lora_sb":
        raise ConfigError(f"strategy=fed_sb averages R: set adapter=lora_sb, not {cfg.adapter.id}")
    if isinstance(strategy, FLoRA | FedExLoRA | FlexLoRA) and cfg.adapter.id != "lora":
        raise ConfigError(
            f"{cfg.strategy.inner._target_} combines B and A of clients that train both: set "
            f"adapter=lora, not {cfg.adapter.id}"
        )
    if isinstance(strategy, FLoRA | FedExLoRA) and cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            f"{cfg.strategy.inner._target_} changes the weights under the LoRA, which "
            f"model.quantization={cfg.model.quantization} forbids: set model.quantization=none, or "
            "strategy=fedavg or flex_lora"
        )
    if isinstance(strategy, SingleClient) and cfg.clients_per_round != 1:
        raise ConfigError(
            f"clients_per_round={cfg.clients_per_round} should be 1 with strategy=single_client; "
            "strategy=fedavg averages more"
        )
    if isinstance(strategy, Robust):
        try:
            strategy.check(cfg.clients_per_round)
        except TooManyHostileError as error:
            raise ConfigError(
                f"{error}: raise clients_per_round, or lower strategy.inner.num_malicious_nodes"
            ) from None
    if is_secure(cfg) and not is_mean_type(strategy):
        raise ConfigError(
            f"strategy.inner={cfg.strategy.inner._target_} looks at single updates, which secure "
            "aggregation hides: use flwr.serverapp.strategy.FedAvg or another mean"
        )
