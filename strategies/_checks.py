"""What several strategies ask of the rest of the configuration."""

import logging
from collections.abc import Iterable

from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.config.rules import is_number, is_whole
from fl_app.privacy import is_example_level
from fl_app.wire.forms import forms

logger = logging.getLogger("thinwire")

ROUNDED = 2.0  # how much larger than it was sent a codec may make a value


def within(interval: str, **values: float) -> None:
    """Check that numbers are in an interval.

    Parameters
    ----------
    interval : str
        As mathematicians write it: ``[0, 1)``, ``(0, inf)``.
    **values
        By name.

    Raises
    ------
    ValueError
        Naming the value and the interval.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if not (
            is_number(value)
            and (low <= value if interval[0] == "[" else low < value)
            and (value <= high if interval[-1] == "]" else value < high)
        ):
            raise ValueError(f"{name}={value} should be in {interval}")


def switches(**values: bool) -> None:
    """Check that values are true or false; ValueError if not."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value} should be true or false")


def whole_from(least: int, most: int | None = None, /, **values: int) -> None:
    """Check that values are whole numbers from ``least``, and up to ``most``; ValueError if not."""
    for name, value in values.items():
        if not is_whole(value, least) or (most is not None and value > most):
            end = "" if most is None else f" to {most}"
            raise ValueError(f"{name}={value} should be a whole number from {least}{end}")


def check_clients(cfg: DictConfig, clients: int, why: str) -> None:
    """Check that a strategy's number of all clients is the run's; ConfigError if not."""
    if clients != cfg.federation.clients:
        raise ConfigError(
            f"strategy.inner.clients={clients} should be federation.clients="
            f"{cfg.federation.clients}: {why}"
        )


def check_local(cfg: DictConfig, local: str) -> None:
    """Check that clients have their half ``local``, by its name; ConfigError if not."""
    if (cfg.strategy.get("local") or {}).get("_target_") != local:
        name = local.split(".")[1]
        raise ConfigError(f"strategy.local should be {local}: set strategy={name}")


def check_reached(cfg: DictConfig, key: str, rounds: int, what: str) -> None:
    """Warn of a run that ends before ``what`` follows ``rounds``, the value of an option."""
    if rounds >= cfg.rounds:
        logger.warning("%s=%d, and the run has rounds=%d: %s", key, rounds, cfg.rounds, what)


def check_shared(cfg: DictConfig, strategy: Strategy, names: Iterable[str], why: str) -> None:
    """Check that options of both halves have one value; ConfigError if not.

    Parameters
    ----------
    cfg : DictConfig
        The whole configuration.
    strategy : Strategy
        The server's half, with the options as attributes.
    names : iterable of str
        The options.
    why : str
        What both halves need them for.
    """
    for name in names:
        local, inner = cfg.strategy.local.get(name), getattr(strategy, name)
        if local != inner:
            raise ConfigError(
                f"strategy.local.{name}={local} should be strategy.inner.{name}={inner}: {why}"
            )


def check_forgets(cfg: DictConfig, memory: str) -> None:
    """Check that no codec up remembers what it lost; ConfigError if one does.

    Parameters
    ----------
    cfg : DictConfig
        The whole configuration.
    memory : str
        What of the method remembers it.
    """
    known = forms(plain(cfg.codec), plain(cfg.strategy.forms))
    if any(form.up.whole.remembers for form in known.values()):
        raise ConfigError(
            f"codec.up remembers what it lost, and so does this method, in {memory}: the two would "
            "send it twice; set a codec without error_feedback, momentum_correction or shift"
        )


def check_zeroth_order(cfg: DictConfig) -> None:
    """Check what a method asks that sends slopes along seeded directions; ConfigError if not.

    Both ends start from theta0 as it is, and there are no gradients of rows to be clipped.
    """
    if plain(cfg.codec.down) != {"id": "fp32"}:
        raise ConfigError(
            "codec.down should be {id: fp32} where both ends rebuild the model from theta0 and "
            "what was sent: set codec=fp32, and codec.up to round what goes up"
        )
    if cfg.adapter.id == "sign_mask":
        raise ConfigError(
            "adapter=sign_mask has scores of which the signs alone are in the model: a probe "
            "changes none, and its slope is 0: set adapter=lora"
        )
    if is_example_level(cfg):
        raise ConfigError(
            f"privacy={cfg.privacy.id} adds its noise to clipped gradients of rows, and this "
            "method has none: set privacy=none"
        )
