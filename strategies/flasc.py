"""FLASC, of the thesis CELLM: LoRA with sparse messages and dense training (Kuo et al. 2024).

https://arxiv.org/abs/2406.05233. P, the vector of all trained values, stands on the server. In
round t = 0, 1, ... a client of tier i has the densities rho_d and rho_u, and gets and sends::

    rho_t = rho gamma^floor(t / every) / 4^i              k = floor(rho_t d) of d values, at least 1
    M   = the k_d entries of P of largest magnitude       of all tensors together
    P0  = M P                                             what the client starts from
    D_k = P0 - P_trained                                  all entries train, those outside M too
    D_k <- its k_u entries of largest magnitude, zeros elsewhere

and the server takes the mean D over the clients, zeros included, as the gradient of AdamW or SGD on
the whole P. Nothing remembers what was left out. What is scored, exported and shown as the model is
M P of the first tier, what a client would get. Among equal magnitudes the lowest index is taken, so
that of LoRA's B, which starts at 0, no entry is chosen before every entry of A is.

The client chooses M too, from what it gets: that changes nothing, except in the first round, in
which theta0 is known to both ends and needs no message. A tier goes to every so-many-th client, and
in the message. With ``dense_heads`` only LoRA's factors take part in the choice, as in the authors'
script with tiers (https://github.com/imkevinkuo/flasc); other tensors are sent whole.
"""

import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.codecs import WireError
from fl_app.codecs.parts.groups import concatenate
from fl_app.codecs.parts.sparse import largest
from fl_app.config import ConfigError, plain
from fl_app.faults import FaultError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree, split
from fl_app.wire.messages import BY_NODE
from strategies._checks import check_local, check_shared, switches, whole_from, within

CLIENT = "strategies.flasc.FlascClient"
CHANGE, TIER = "change", "tier"
SHARED = ("density_down", "gamma", "every", "tiers", "dense_heads")  # by both halves


class Densities:
    """The densities of rounds and tiers, one direction each.

    Parameters
    ----------
    rho : float
        The density of the first round and tier, in (0, 1].
    gamma : float
        Factor of the decay, in (0, 1].
    every : int
        Rounds from one decay to the next.
    tiers : int
        Number of tiers; each has a fourth of the density of the one before.

    Raises
    ------
    ValueError
        Other values.
    """

    def __init__(self, rho: float, gamma: float, every: int, tiers: int) -> None:
        within("(0, 1]", density=rho, gamma=gamma)
        whole_from(1, every=every, tiers=tiers)
        self.rho, self.gamma, self.every, self.tiers = float(rho), float(gamma), every, tiers

    def of(self, server_round: int, tier: int = 0) -> float:
        """Return rho_t of a round, from 1, and a tier, from 0."""
        return float(self.rho * self.gamma ** ((server_round - 1) // self.every) / 4**tier)


def chosen(tree: Tree, density: float, dense_heads: bool) -> Tree:
    """Return the entries of largest magnitude, floor(density d) of d values, and zeros elsewhere.

    Parameters
    ----------
    dense_heads : bool
        True to keep tensors that are no factor of LoRA whole.
    """
    ours = ranked(tree, dense_heads)
    flat = concatenate(ours)
    mask = largest(flat.view(np.uint32) & np.uint32(0x7FFFFFFF), allowed(density, flat.size))
    return {**tree, **split(np.where(mask, flat, np.float32(0)), ours)}


def ranked(tree: Tree, dense_heads: bool) -> Tree:
    """Return the tensors that take part in the choice."""
    return {n: x for n, x in tree.items() if not dense_heads or "lora_" in n}


def allowed(density: float, size: int) -> int:
    """Return k, how many of ``size`` values are chosen."""
    return min(size, max(1, math.floor(density * size)))


class FlascClient(LocalMethod):
    """Train everything from M P, and send the largest changes.

    Parameters
    ----------
    density_down, density_up : float
        rho_d and rho_u.
    gamma, every, tiers
        See `Densities`.
    dense_heads : bool
        See `chosen`.
    """

    config_keys = (TIER,)

    def __init__(
        self,
        density_down: float,
        density_up: float,
        gamma: float = 1.0,
        every: int = 1,
        tiers: int = 1,
        dense_heads: bool = False,
    ) -> None:
        self.down = Densities(density_down, gamma, every, tiers)
        self.up = Densities(density_up, gamma, every, tiers)
        self.dense_heads = dense_heads

    def run(self, given: Assignment) -> Answer:
        """Return the largest entries of D_k.

        Raises
        ------
        FaultError
            If the message names a tier that the run does not have.
        """
        tier = given.config.get(TIER, 0)
        if type(tier) is not int or not 0 <= tier < self.down.tiers:
            own = f"0..{self.down.tiers - 1}"
            raise FaultError("other_value", key=TIER, said=str(tier), own=own)
        density = self.down.of(given.server_round, tier)
        p0 = chosen(dict(given.parts["model"]), density, self.dense_heads)
        with torch.no_grad():
            for name, parameter in given.model.named_parameters():
                if name in p0:
                    parameter.copy_(torch.from_numpy(p0[name]))
        trained = given.train(NO_HOOKS)
        change = {n: x - trained.model[n] for n, x in p0.items()}
        density = self.up.of(given.server_round, tier)
        return Answer({CHANGE: chosen(change, density, self.dense_heads)}, trained.metrics)

    def check_sent(self, parts: Mapping[str, Tree], client: int, server_round: int) -> None:
        """Check that a change has no more values than round and tier allow."""
        change = ranked(parts[CHANGE], self.dense_heads)
        density = self.up.of(server_round, client % self.up.tiers)
        count, size = (sum(map(how, change.values())) for how in (np.count_nonzero, np.size))
        if count > allowed(density, size):
            raise WireError(
                f"a change of {count} values of {size}, where the density {density:.3g} of round "
                f"{server_round} allows {allowed(density, size)}"
            )


class Flasc(FedAvg):
    """AdamW or SGD on P, along the mean of the changes.

    Parameters
    ----------
    density_down : float
        rho_d.
    gamma, every, tiers
        See `Densities`.
    dense_heads : bool
        See `chosen`.
    optimizer : str
        "adamw", or "sgd": ``P <- P - eta D``.
    eta : float
        Rate of the server.
    beta_1, beta_2, eps, weight_decay : float
        Of AdamW, as in torch.

    Raises
    ------
    ValueError
        Another optimizer, and see `Densities`.
    """

    def __init__(
        self,
        density_down: float,
        gamma: float = 1.0,
        every: int = 1,
        tiers: int = 1,
        dense_heads: bool = False,
        optimizer: str = "adamw",
        eta: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **arguments: object,
    ) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        if optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer={optimizer} should be adamw or sgd")
        Densities(density_down, gamma, every, tiers)
        switches(dense_heads=dense_heads)
        within("(0, inf)", eta=eta)
        within("[0, 1)", beta_1=beta_1, beta_2=beta_2)
        within("[0, inf)", eps=eps, weight_decay=weight_decay)
        self.density_down, self.gamma, self.every, self.tiers = density_down, gamma, every, tiers
        self.dense_heads, self.optimizer, self.eta = dense_heads, optimizer, eta
        self.beta_1, self.beta_2, self.eps = beta_1, beta_2, eps
        self.weight_decay = weight_decay
        self.p: dict[str, np.ndarray] = {}
        self.m: dict[str, np.ndarray] = {}
        self.v: dict[str, np.ndarray] = {}
        self.steps = 0

    def check(self, cfg: DictConfig) -> None:
        """Check that both halves agree and the server knows P0; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, SHARED, "both ends choose the entries")
        if self.tiers > cfg.federation.clients:
            raise ConfigError(
                f"strategy.inner.tiers={self.tiers} should be at most federation.clients="
                f"{cfg.federation.clients}: nobody would be of the last"
            )
        if self.tiers > 1 and cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but a tier is of a client, which must be known: "
                "set it to partitions"
            )
        if plain(cfg.codec.down) != {"id": "fp32"}:
            raise ConfigError(
                "codec.down should be {id: fp32} with strategy=flasc, which sends the largest "
                "values as they are: set codec=fp32, and codec.up to round the changes"
            )

    def sent(self, server_round: int, tier: int = 0) -> ArrayRecord:
        """Return M P of a round and a tier."""
        density = Densities(self.density_down, self.gamma, self.every, self.tiers)
        p = {n: x.astype(np.float32) for n, x in self.p.items()}
        p0 = chosen(p, density.of(server_round, tier), self.dense_heads)
        return ArrayRecord({n: Array(x) for n, x in p0.items()})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send M P, each tier its own; in the first round P, of which clients choose M P."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if is_first := not self.p:
            self.p = {name: array.numpy().astype(np.float64) for name, array in arrays.items()}
        records = {}
        for message in messages:
            tier = message.metadata.dst_node_id % self.tiers
            if tier not in records:
                records[tier] = arrays if is_first else self.sent(server_round, tier)
            said = {TIER: tier} if tier else {}
            ((key, kept),) = message.content.config_records.items()
            (name,) = message.content.array_records
            message.content = RecordDict({name: records[tier], key: ConfigRecord({**kept, **said})})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step along the mean change, and return M P."""
        replies = list(replies)
        changes = [cast(ArrayRecord, reply.content.array_records[CHANGE]) for reply in replies]
        _, metrics = super().aggregate_train(server_round, replies)
        mean = {n: np.mean([c[n].numpy() for c in changes], axis=0, dtype=float) for n in self.p}
        self.step(mean)
        return self.sent(server_round), metrics

    def step(self, gradient: dict[str, np.ndarray]) -> None:
        """Let the server's optimizer change P."""
        self.steps += 1
        if self.optimizer == "sgd":
            self.p = {n: p - self.eta * gradient[n] for n, p in self.p.items()}
            return
        b1, b2, g = self.beta_1, self.beta_2, gradient
        self.m = {n: b1 * self.m.get(n, 0.0) + (1 - b1) * g[n] for n in g}
        self.v = {n: b2 * self.v.get(n, 0.0) + (1 - b2) * g[n] ** 2 for n in g}
        for_m, for_v = 1 - b1**self.steps, 1 - b2**self.steps
        shrunk = 1 - self.eta * self.weight_decay
        self.p = {
            n: p * shrunk - self.eta * (self.m[n] / for_m) / (np.sqrt(self.v[n] / for_v) + self.eps)
            for n, p in self.p.items()
        }
