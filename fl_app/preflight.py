"""Checks of a whole configuration, before anything is started or loaded."""

from omegaconf import DictConfig, OmegaConf

from fl_app.adapters import ADAPTERS
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, plain
from fl_app.optimizers import OPTIMIZERS, SCHEDULES
from strategies.inner import inner_strategy
from strategies.sampling import SAMPLERS

REFERENCES = ("theta0", "broadcast")
POSITIVE = (
    "rounds", "clients_per_round", "local_epochs", "batch_size",
    "optimizer.lr", "federation.clients", "federation.torch_threads", "federation.reply_timeout",
    "federation.node_timeout",
)  # fmt: skip


def check(cfg: DictConfig) -> None:
    """Check every value that can be checked without a model, data or a network.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    for key in POSITIVE:
        value = OmegaConf.select(cfg, key)
        if not value > 0:
            raise ConfigError(f"{key}={value} should be greater than 0")
    if not 0 <= cfg.seed < 2**63:
        raise ConfigError(f"seed={cfg.seed} should be in [0, 2^63)")
    for key in ("clients_per_round", "evaluate_clients_per_round"):
        if cfg[key] > cfg.federation.clients:
            raise ConfigError(
                f"{key}={cfg[key]} should be at most federation.clients={cfg.federation.clients}"
            )
    if not 0.0 <= cfg.optimizer.warmup <= 1.0:
        raise ConfigError(f"optimizer.warmup={cfg.optimizer.warmup} should be in [0, 1]")
    for key, known in (
        ("adapter.id", ADAPTERS),
        ("optimizer.id", OPTIMIZERS),
        ("optimizer.schedule", SCHEDULES),
        ("strategy.sampler", SAMPLERS),
        ("codec.reference", REFERENCES),
        ("federation.device", ("auto", "cpu", "cuda")),
        ("target.metric", ("anls", "accuracy")),
    ):
        value = OmegaConf.select(cfg, key)
        if value not in known:
            raise ConfigError(f"{key}={value} should be one of {sorted(known)}")
    if cfg.target.value is not None and not isinstance(cfg.target.value, (int, float)):
        raise ConfigError(f"target.value={cfg.target.value!r} should be a number or null")
    for direction in ("up", "down"):
        try:
            codec = from_spec(plain(cfg.codec[direction]))
        except ValueError as error:
            raise ConfigError(f"codec.{direction}: {error}") from None
        if not codec.terminal:
            raise ConfigError(
                f"codec.{direction}={codec.spec} leaves values to encode: end the chain with a "
                "codec that writes bytes, such as fp32 or nf4"
            )
    try:
        inner_strategy(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None
