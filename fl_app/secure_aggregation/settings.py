"""Groups and thresholds of a run: what both sides take from the configuration, not from a peer."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

KEY = "secure_aggregation"  # of conf/strategy


@dataclass(frozen=True)
class Settings:
    """How many hold shares of a client's secrets.

    Attributes
    ----------
    neighbours : int
        Clients that each one shares secrets and masks with.
    threshold : int
        Shares that reveal a secret; of every group, so many have to stay in a round.
    """

    neighbours: int
    threshold: int


def is_on(cfg: DictConfig) -> bool:
    """Return whether updates are added up in secret."""
    return KEY in cfg.strategy


def settings(cfg: DictConfig) -> Settings:
    """Return the settings of a configuration, which is checked already."""
    asked = cfg.strategy[KEY]
    neighbours = asked.neighbours or cfg.clients_per_round - 1
    return Settings(neighbours, math.ceil(asked.threshold * (neighbours + 1)))
