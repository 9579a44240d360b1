"""What the configuration asks of a client that trains with privacy, and what a run has spent."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from fl_app import privacy
from fl_app.config import plain
from fl_app.privacy import accounting
from fl_app.privacy.spent import Spent

logger = logging.getLogger("thinwire")

TOLERANCE = 1e-3  # of two epsilons that are the same, on two machines


@dataclass(frozen=True)
class Mechanism:
    """DP-SGD of one client; the same in each of its turns.

    Attributes
    ----------
    noise_multiplier : float
        Standard deviation of the noise on a step's sum, over ``max_grad_norm``.
    max_grad_norm : float
        Length to which the gradient of a row is clipped.
    sample_rate : float
        Probability that a row is in the sample of a step.
    expected_rows : float
        Mean size of a sample: what the noised sum is divided by.
    steps : int
        Steps of a turn.
    delta : float
        Below one over the client's rows.
    """

    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    expected_rows: float
    steps: int
    delta: float

    def epsilon(self, turns: int) -> float:
        """Return the epsilon at ``delta`` of ``turns`` turns together."""
        return accounting.epsilon(
            self.noise_multiplier, self.sample_rate, turns * self.steps, self.delta
        )


def most_turns(cfg: DictConfig) -> int:
    """Return how many rounds of the run one client may be sampled in, at worst.

    A cyclic sampler takes every client once before any twice; of any other, no client is promised
    to be left out.
    """
    if cfg.strategy.sampler == "cyclic":
        return math.ceil(cfg.rounds * cfg.clients_per_round / cfg.federation.clients)
    return int(cfg.rounds)


def check_turns(cfg: DictConfig, turns: Mapping[int, int]) -> None:
    """Check that no client takes more turns in a run than its noise is for.

    Raises
    ------
    ValueError
        Naming the client. With fewer nodes than clients, a cyclic sampler comes round sooner; a
        round that is repeated takes one more.
    """
    most, client = most_turns(cfg), max(turns, key=lambda k: (turns[k], -k), default=0)
    if turns and turns[client] > most:
        raise ValueError(
            f"client {client} would take {turns[client]} private turns, and the noise is for "
            f"{most}: start a node for each of the {cfg.federation.clients} clients, or a run of "
            "fewer rounds"
        )


def mechanism(cfg: DictConfig, rows: int) -> Mechanism:
    """Return what a client that holds ``rows`` rows does, by the group ``privacy``.

    A function of its arguments alone: any machine that knows the size of a client finds the same
    noise. It is for all turns that the client may take, ``most_turns``.

    Raises
    ------
    ValueError
        If ``privacy.delta`` is not below 1 / rows, or no noise gives ``privacy.epsilon``.
    """
    asked = cfg.privacy
    delta = 1 / (2 * rows) if asked.delta is None else asked.delta
    if delta >= 1 / rows:
        raise ValueError(
            f"privacy.delta={delta} should be below 1/{rows}, one over the rows of the client: a "
            "mechanism that publishes one row in full would do"
        )
    batch = cfg.batch_size * cfg.gradient_accumulation
    rate = min(1.0, batch / rows)
    steps = cfg.local_epochs * math.ceil(rows / batch)
    noise = asked.noise_multiplier
    if noise is None:
        noise = accounting.noise_multiplier(asked.epsilon, rate, most_turns(cfg) * steps, delta)
    return Mechanism(noise, asked.max_grad_norm, rate, rate * rows, steps, delta)


def spent(
    cfg: DictConfig,
    rows: Mapping[int, int],
    turns: Mapping[int, int],
    said: Mapping[int, Spent] | None = None,
) -> dict[str, Any] | None:
    """Return what a run has cost its clients in privacy, for summary.json; None without privacy.

    Parameters
    ----------
    rows : clients' numbers of rows, by partition
    turns : turns that the clients have been sent, by partition
        Those whose replies were lost count as well: they may have been seen.
    said : what the clients say themselves that their rows have spent, by partition
        It may be more: other runs count too, and turns that the server does not know of.

    Returns
    -------
    dict
        ``unit`` ("row" or "client"), ``epsilon`` and ``delta``, each the largest of any client,
        ``noise_multiplier``, the least, ``max_grad_norm``, ``noise``, "secret" or "seeded", and
        ``rehearsal``: whether the noise can be taken off again, so that epsilon protects nobody.
    """
    if privacy.is_example_level(cfg):
        return _or_as_said(_spent_on_rows(cfg, rows, turns), said or {})
    if privacy.is_client_level(cfg):
        return _spent_on_clients(cfg, turns)
    return None


def _spent_on_rows(
    cfg: DictConfig, rows: Mapping[int, int], turns: Mapping[int, int]
) -> dict[str, Any]:
    mechanisms = {client: mechanism(cfg, count) for client, count in rows.items() if count}
    epsilons = [one.epsilon(turns.get(client, 0)) for client, one in mechanisms.items()]
    return {
        "unit": "row",
        "epsilon": max(epsilons),
        "delta": max(one.delta for one in mechanisms.values()),
        "noise_multiplier": min(one.noise_multiplier for one in mechanisms.values()),
        "max_grad_norm": cfg.privacy.max_grad_norm,
        "noise": privacy.noise(cfg),
        "rehearsal": privacy.noise(cfg) == privacy.SEEDED,
    }


def _or_as_said(own: dict[str, Any], said: Mapping[int, Spent]) -> dict[str, Any]:
    """Return what was spent, as the clients say if that is more; and say so."""
    most = max((one.epsilon for one in said.values()), default=0.0)
    if most <= own["epsilon"] * (1 + TOLERANCE):
        return own
    logger.warning(
        "privacy: clients say that their rows have spent epsilon %.3g, where this run makes it "
        "%.3g: their turns in other runs count too", most, own["epsilon"],
    )  # fmt: skip
    delta = max(own["delta"], *(one.delta for one in said.values()))
    return {**own, "epsilon": most, "delta": delta}


def _spent_on_clients(cfg: DictConfig, turns: Mapping[int, int]) -> dict[str, Any]:
    """Account for `PrivateRelease`; the sampler is no secret, so that it amplifies nothing."""
    release = plain(cfg.strategy.inner)
    delta = 1 / (2 * cfg.federation.clients)
    most = max(turns.values(), default=0)
    return {
        "unit": "client",
        "epsilon": accounting.epsilon(release["noise_multiplier"], 1.0, most, delta),
        "delta": delta,
        "noise_multiplier": release["noise_multiplier"],
        "max_grad_norm": release["clipping_norm"],
        "noise": privacy.noise(cfg),
        "rehearsal": privacy.noise(cfg) == privacy.SEEDED,
    }
