"""Groups and thresholds of a run: what both sides take from the configuration, not from a peer."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

KEY = "secure_aggregation"  # of conf/strategy
LEAST_CLIENTS = 3  # of a sum of two, each of the two would know the other's update


@dataclass(frozen=True)
class Settings:
    """How many hold shares of a client's secrets.

    Attributes
    ----------
    neighbours : int
        Clients that each one shares secrets and masks with.
    threshold : int
        Shares that reveal a secret; of every group, so many have to stay in a round.
    clients : int
        Clients of the federation, 0 to clients - 1.

    Raises
    ------
    ValueError
        If fewer than `LEAST_CLIENTS` could have their sum revealed, or if two parts of a group
        could each put a secret together.
    """

    neighbours: int
    threshold: int
    clients: int

    def __post_init__(self) -> None:
        least, most = least_threshold(self.group), self.group
        if not least <= self.threshold <= most:
            raise ValueError(
                f"{self.threshold} shares reveal a secret in a group of {self.group}: should be "
                f"in {least}..{most}"
            )

    @property
    def group(self) -> int:
        """Members of a client's group, itself included, if nobody drops out."""
        return self.neighbours + 1


def least_threshold(group: int) -> int:
    """Return the fewest shares that may reveal a secret: `LEAST_CLIENTS`, and above half."""
    return max(LEAST_CLIENTS, group // 2 + 1)


def is_on(cfg: DictConfig) -> bool:
    """Return whether updates are added up in secret."""
    return KEY in cfg.strategy


def settings(cfg: DictConfig) -> Settings:
    """Return the settings of a configuration, which is checked already."""
    asked = cfg.strategy[KEY]
    neighbours = asked.neighbours or cfg.clients_per_round - 1
    group = neighbours + 1
    threshold = max(least_threshold(group), math.ceil(asked.threshold * group))
    return Settings(neighbours, threshold, cfg.federation.clients)
