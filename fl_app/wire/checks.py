"""The rules of ``codec`` and ``link``: what a model may travel in, and on."""

from omegaconf import DictConfig

from fl_app.codecs import from_spec
from fl_app.config import ConfigError, plain
from fl_app.config.rules import Choices, check_choices
from fl_app.wire import link
from fl_app.wire.forms import forms

REFERENCES = ("theta0", "broadcast")  # what an update is coded against
CHOICES: Choices = {"codec.reference": REFERENCES}


def check(cfg: DictConfig) -> None:
    """Check that both codecs exist, write bytes, and suit their direction.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    check_choices(cfg, CHOICES)
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
        if direction == "down" and codec.receive is not None:
            raise ConfigError(
                f"codec.down={codec.spec} wants receivers that have heard every message before, "
                "but clients miss rounds: use it on the way up, or error_feedback on the way down"
            )
    _check_forms(cfg)
    link.check(cfg)


def _check_forms(cfg: DictConfig) -> None:
    try:
        known = forms(plain(cfg.codec), plain(cfg.strategy.get("forms")))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for form in known.values():
        if form.down.whole.receive is not None:
            raise ConfigError(
                f"strategy.forms.{form.name}.down wants receivers that have heard every message "
                "before, but clients miss rounds: use such a codec on the way up"
            )
