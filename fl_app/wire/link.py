"""The link between server and clients in a simulation: what is lost on it, and how long it takes.

A message of a turn is lost as a whole. Losses are drawn from the run's seed for each client,
direction and round, so that a run repeated loses the same messages. Without ``burst`` they are
independent (Bernoulli); with it a link is good or bad by Gilbert's chain (Gilbert 1960, Bell System
Technical Journal 39; Elliott 1963 with losses of 0 and 1): bad, when all is lost, for ``burst``
rounds in the mean, and in a share ``loss`` of all rounds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.config.rules import is_number, is_share
from fl_app.wire.ledger import Direction, Transfer

NONE, SIMULATED = "none", "simulated"
IDS = (NONE, SIMULATED)
STREAMS = {"down": 1, "up": 2}
STREAM = 47  # separates the draws from other uses of the seed


@dataclass(frozen=True)
class Way:
    """One direction of a client's link.

    Attributes
    ----------
    rate : float or None
        Bits a second; None: no time passes.
    delay : float
        Seconds before the first bit arrives.
    loss : float
        The share of messages that are lost, in [0, 1).
    burst : float or None
        Rounds in a row that the link is bad, in the mean; None: losses are independent.
    """

    rate: float | None = None
    delay: float = 0.0
    loss: float = 0.0
    burst: float | None = None

    def after(self, was_lost: bool) -> float:
        """Return how likely a message is lost, by whether that of the round before was."""
        if self.burst is None:
            return self.loss
        recovers = 1 / self.burst
        return 1 - recovers if was_lost else recovers * self.loss / (1 - self.loss)

    def seconds(self, count: int) -> float:
        """Return how long a message of ``count`` bytes takes."""
        return self.delay + (8 * count / self.rate if self.rate else 0.0)


class Link:
    """The simulated links of all clients of a run.

    Parameters
    ----------
    cfg : DictConfig
        The configuration: ``link`` and ``seed``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.seed = int(cfg.seed)
        self.said: dict[str, Any] = plain(cfg.link)
        self.is_simulated = self.said["id"] == SIMULATED
        self._lost: dict[tuple[int, Direction], list[bool]] = defaultdict(list)  # by round, from 1

    def way(self, client: int, direction: Direction) -> Way:
        """Return one direction of a client's link."""
        if not self.is_simulated:
            return Way()
        own = {str(key): value for key, value in self.said["clients"].items()}
        return Way(**{**self.said[direction], **own.get(str(client), {}).get(direction, {})})

    def is_lost(self, client: int, direction: Direction, server_round: int) -> bool:
        """Tell whether the message of a client's turn in a round is lost."""
        way = self.way(client, direction)
        if not way.loss:
            return False
        lost = self._lost[client, direction]
        while len(lost) < server_round:
            share = way.after(lost[-1]) if lost else way.loss
            lost.append(self._draw(client, direction, len(lost) + 1) < share)
        return lost[server_round - 1]

    def _draw(self, client: int, direction: Direction, server_round: int) -> float:
        place = [self.seed, STREAM, client, STREAMS[direction], server_round]
        return float(np.random.default_rng(place).random())

    def seconds(self, rows: Iterable[Transfer], until: int | None = None) -> float:
        """Return how long the transfers of a run take: in a round, those of its slowest client.

        Training takes no time here, and a client's messages follow each other. Evaluation by
        clients does not count.

        Parameters
        ----------
        rows : iterable of Transfer
            The ledger's.
        until : int or None
            The last round that counts.
        """
        spent: dict[tuple[int, int], float] = defaultdict(float)
        for row in rows:
            if row.kind != "evaluate" and (until is None or row.round <= until):
                way = self.way(row.partition, row.direction)
                spent[row.round, row.partition] += way.seconds(row.message_bytes)
        slowest: dict[int, float] = defaultdict(float)
        for (number, _), value in spent.items():
            slowest[number] = max(slowest[number], value)
        return sum(slowest.values())


def check(cfg: DictConfig) -> None:
    """Check the group ``link``.

    Raises
    ------
    ConfigError
        Naming the key and what it may be, or what a simulated link does not go with.
    """
    if cfg.link.id not in IDS:
        raise ConfigError(f"link.id={cfg.link.id} should be one of {sorted(IDS)}")
    if cfg.link.id == NONE:
        return
    said = plain(cfg.link)
    for direction in STREAMS:
        _check_way(f"link.{direction}", said[direction])
    for client, ways in said["clients"].items():
        key = f"link.clients.{client}"
        if str(client) not in map(str, range(cfg.federation.clients)):  # nor 03, nor other digits
            raise ConfigError(f"{key}: clients are numbered from 0 to {cfg.federation.clients - 1}")
        if not isinstance(ways, Mapping) or {*ways} - {*STREAMS}:
            raise ConfigError(f"{key}={ways} should have up or down")
        for direction, way in ways.items():
            if not isinstance(way, Mapping) or {*way} - {*Way.__dataclass_fields__}:
                known = ", ".join(Way.__dataclass_fields__)
                raise ConfigError(f"{key}.{direction}={way} should have some of {known}")
            _check_way(f"{key}.{direction}", {**said[direction], **way})
    if cfg.federation.sampling == "nodes":
        raise ConfigError(
            "link: with federation.sampling=nodes nobody knows beforehand whose link a message "
            "takes; set federation.sampling=partitions"
        )


def _check_way(key: str, way: Mapping[str, Any]) -> None:
    rate, burst = way["rate"], way["burst"]
    if rate is not None and not (is_number(rate) and rate > 0):
        raise ConfigError(f"{key}.rate={rate!r} should be null or bits a second, above 0")
    if not (is_number(way["delay"]) and way["delay"] >= 0):
        raise ConfigError(f"{key}.delay={way['delay']!r} should be seconds, at least 0")
    if not is_share(way["loss"]):
        raise ConfigError(f"{key}.loss={way['loss']!r} should be a number in [0, 1)")
    if burst is None:
        return
    if not (is_number(burst) and burst >= 1):
        raise ConfigError(f"{key}.burst={burst!r} should be null or rounds, at least 1")
    if way["loss"] / (1 - way["loss"]) > burst:
        raise ConfigError(
            f"{key}.burst={burst:g} is too short for loss={way['loss']:g}: a good link would have "
            f"to fail more often than always; at least {way['loss'] / (1 - way['loss']):.3g}"
        )
