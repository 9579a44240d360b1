"""Settings that differ by round: ``turns`` of the configuration, for rounds 1, 2 and so on."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.faults.suggestions import did_you_mean

KEYS = ("local_epochs", "batch_size", "gradient_accumulation", "optimizer")


def of_round(cfg: DictConfig, server_round: int) -> DictConfig:
    """Return the configuration of a round, from 1: that of the run with its turn's settings.

    The last turn holds for all later rounds.
    """
    if not cfg.turns:
        return cfg
    whole = plain(cfg)
    turn = whole["turns"][min(server_round, len(cfg.turns)) - 1]
    optimizer = {**whole["optimizer"], **turn.get("optimizer", {})}
    return DictConfig({**whole, **turn, "optimizer": optimizer}, flags={"readonly": True})


def epochs(config: Mapping[str, Any]) -> list[Any]:
    """Return the local epochs of each turn of a plain configuration."""
    own = config["local_epochs"]
    return [turn.get("local_epochs", own) for turn in config["turns"]] or [own]


def check(cfg: DictConfig) -> list[DictConfig]:
    """Return the configuration of each turn, of which only its values are to be checked.

    ``turns`` is a list of mappings.

    Raises
    ------
    ConfigError
        If one names a setting that a turn does not have.
    """
    turns = plain(cfg.turns)
    known = [*KEYS[:-1], *(f"optimizer.{key}" for key in cfg.optimizer if key != "id")]
    for number, turn in enumerate(turns):
        optimizer = turn.get("optimizer", {})
        if not isinstance(optimizer, dict):
            raise ConfigError(f"turns[{number}].optimizer={optimizer!r} should be a mapping")
        own = [*(key for key in turn if key != "optimizer"), *(f"optimizer.{k}" for k in optimizer)]
        for key in own:
            if key not in known:
                raise ConfigError(
                    f"turns[{number}].{key} is no setting of a turn.{did_you_mean(key, known)} "
                    f"These are: {', '.join(known)}"
                )
    return [of_round(cfg, number + 1) for number in range(len(turns))]
