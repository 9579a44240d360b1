"""Deep Gradient Compression (Lin et al. 2018, https://arxiv.org/abs/1712.01887), of rounds.

The gradient of a client k is here the change of its turn, g_k = x - y_k. It is shortened to the
client's share of a bound on the norm of the sum (section 3.2; the paper divides by N^1/2)::

    g_k <- g_k min(1, thr / (N^1/2 |g_k|)),

then comes momentum correction (eq. 4; Nesterov: u <- m (u + g), v <- v + u + g)::

    u_k <- m u_k + g_k,      v_k <- v_k + u_k.

Of every tensor of n values the k = ceil(rho n) largest of v are sent, and momentum factor masking
(eq. 5) forgets the momentum of what was sent::

    q_k = v_k mask,    v_k <- v_k - q_k,    u_k <- u_k (1 - mask),    x <- x - eta 1/N sum_k q_k.

Where q_k arrives exactly, v_k - q_k is 0 on the mask, as in the paper; of a codec that rounds, what
it lost stays in v. Tensors of fewer than two dimensions, and all of them if rho = 1, are sent
whole, and the server has their momentum: m <- mu m + 1/N sum_k g_k, x <- x - eta m.

Round t has the density rho_t = max(c^t, rho) with c = rho^(1/(W + 1)), for W rounds of warm-up.

Clipping and the threshold follow the authors' code (https://github.com/synxlin/deep-gradient-
compression): the threshold may be that of a strided sample of about 1 % of the values, multiplied
by 0.8 until at least 0.8 k values reach it; if more than k do, the largest k of them are sent (the
code does so above 1.3 k, and below sends the first k). What is ours: rounds in place of steps, and
an exact choice where ten steps did not suffice.
"""

import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from omegaconf import DictConfig

from fl_app.codecs import WireError
from fl_app.codecs.parts.sparse import largest
from fl_app.config import ConfigError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree, zeros
from strategies._checks import (
    check_local,
    check_reached,
    check_shared,
    switches,
    whole_from,
    within,
)

CLIENT = "strategies.dgc.DGCClient"
SPARSE, DENSE = "gradient", "dense"
SAMPLE, LEAST, TRIES = 0.01, 0.8, 10


def density(rho: float, warmup_rounds: int, server_round: int) -> float:
    """Return rho_t of round t = ``server_round``, from 1."""
    if server_round > warmup_rounds:
        return rho
    return float(rho ** (server_round / (warmup_rounds + 1)))


def sampled_threshold(sizes: NDArray[np.float32], rho: float, rng: np.random.Generator) -> float:
    """Estimate what ceil(rho n) of the n magnitudes reach, from every so-many-th of them.

    At least ``LEAST`` times as many reach it. NaN where ``TRIES`` steps did not lead there.
    """
    n = sizes.size
    target = math.ceil(rho * n)
    wanted = max(math.ceil(SAMPLE * n), math.ceil(2 / rho))
    stride = max(1, n // wanted)
    sample = sizes[int(rng.integers(stride)) :: stride]
    rank = min(sample.size, math.ceil(rho * sample.size))
    threshold = float(np.partition(sample, sample.size - rank)[sample.size - rank])
    for _ in range(TRIES):
        if np.count_nonzero(sizes >= threshold) >= LEAST * target:
            return threshold
        threshold *= LEAST
    return math.nan


def chosen(
    v: NDArray[np.float32], rho: float, rng: np.random.Generator | None
) -> NDArray[np.bool_]:
    """Return the mask of what is sent of a tensor: at most ceil(rho n) of its n values.

    Parameters
    ----------
    rng : Generator or None
        Where a sample begins, whose threshold is taken; None: the largest values, exactly.
    """
    sizes = np.abs(v).reshape(-1)
    k = math.ceil(rho * sizes.size)
    candidates = np.ones(sizes.size, np.bool_)
    if rng is not None and sizes.size:
        threshold = sampled_threshold(sizes, rho, rng)
        if not math.isnan(threshold):
            candidates = sizes >= threshold
    if np.count_nonzero(candidates) > k:
        candidates &= largest(sizes.view(np.uint32), k)  # floats order like their bits
    return candidates.reshape(v.shape)


class DGCClient(LocalMethod):
    """Momentum correction, masking and the choice of what is sent; u_k and v_k between rounds.

    Parameters
    ----------
    rho : float
        Share of the values of a tensor to send, in (0, 1].
    warmup_rounds : int
        W, rounds in which the density falls to rho; 0: none.
    mu : float
        m, in [0, 1).
    nesterov : bool
        Nesterov's momentum.
    masking : bool
        Momentum factor masking.
    clipping_norm : float or None
        thr, a bound on the length of the sum of the gradients; None: none.
    workers : int
        N, the clients of a round.
    threshold : str
        "exact", or "sampled": estimated, for tensors of many millions of values.
    """

    def __init__(
        self,
        rho: float,
        warmup_rounds: int = 0,
        mu: float = 0.9,
        nesterov: bool = False,
        masking: bool = True,
        clipping_norm: float | None = None,
        workers: int = 1,
        threshold: str = "exact",
    ) -> None:
        within("(0, 1]", rho=rho)
        within("[0, 1)", mu=mu)
        whole_from(0, warmup_rounds=warmup_rounds)
        whole_from(1, workers=workers)
        switches(nesterov=nesterov, masking=masking)
        if threshold not in ("exact", "sampled"):
            raise ValueError(f"threshold={threshold} should be exact or sampled")
        if clipping_norm is not None:
            within("(0, inf)", clipping_norm=clipping_norm)
        self.rho, self.warmup_rounds, self.mu = float(rho), warmup_rounds, float(mu)
        self.nesterov, self.masking = nesterov, masking
        self.clipping_norm, self.workers = clipping_norm, workers
        self.threshold = threshold

    def start(self, theta0: Tree) -> Tree:
        """Return u_k = v_k = 0."""
        return joined(*2 * [self.like(SPARSE, theta0)])

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return zeros for the tensors that are sent sparse, or whole."""
        is_sparse = {n: self.rho < 1 and x.ndim > 1 for n, x in theta0.items()}
        return zeros({n: x for n, x in theta0.items() if is_sparse[n] == (part == SPARSE)})

    def run(self, given: Assignment) -> Answer:
        """Return q_k, and the gradient of what is sent whole."""
        x = given.parts["model"]
        trained = given.train(NO_HOOKS)
        g = self.clipped({n: np.asarray(x[n] - y) for n, y in trained.model.items()})
        u, v = self.corrected(g, *parted(given.memory))
        rho = density(self.rho, self.warmup_rounds, given.server_round)
        rng = np.random.default_rng(given.seed) if self.threshold == "sampled" else None
        q = {n: np.where(chosen(x, rho, rng), x, np.float32(0)) for n, x in v.items()}
        dense = {n: np.asarray(g[n]) for n in g if n not in q}

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """v <- v - q and u <- u (1 - mask), by what the server decodes."""
            arrived = sent[SPARSE]
            rest = {n: v[n] - arrived[n] for n in v}
            if not self.masking:
                return joined(u, rest)
            return joined({n: np.where(arrived[n] != 0, np.float32(0), u[n]) for n in u}, rest)

        return Answer({SPARSE: q, DENSE: dense}, trained.metrics, remember)

    def check_sent(self, parts: Mapping[str, Tree], client: int, server_round: int) -> None:
        """Check that no tensor has more values than the round's density allows."""
        del client
        rho = density(self.rho, self.warmup_rounds, server_round)
        for name, q in parts[SPARSE].items():
            count, most = np.count_nonzero(q), math.ceil(rho * q.size)
            if count > most:
                raise WireError(
                    f"{count} of {q.size} values of {name}, where the density {rho:.3g} of round "
                    f"{server_round} allows {most}"
                )

    def clipped(self, g: Tree) -> Tree:
        """Return g, no longer than thr / N^1/2."""
        if self.clipping_norm is None:
            return g
        length = math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in g.values()))
        most = self.clipping_norm / math.sqrt(self.workers)
        return g if length <= most else {n: x * np.float32(most / length) for n, x in g.items()}

    def corrected(self, g: Tree, u: Tree, v: Tree) -> tuple[Tree, Tree]:
        """Return the new u and v."""
        m = np.float32(self.mu)
        if self.nesterov:
            u = {n: m * (u[n] + g[n]) for n in u}
            return u, {n: v[n] + (u[n] + g[n]) for n in u}
        u = {n: m * u[n] + g[n] for n in u}
        return u, {n: v[n] + u[n] for n in u}


def joined(u: Tree, v: Tree) -> Tree:
    """Return u and v as one Tree, to be remembered."""
    return {f"{which}/{n}": x for which, tree in (("u", u), ("v", v)) for n, x in tree.items()}


def parted(memory: Tree) -> tuple[Tree, Tree]:
    """Undo `joined`."""
    u, v = ({n[2:]: x for n, x in memory.items() if n[0] == which} for which in "uv")
    return u, v


class DGC(FedAvg):
    """x <- x - eta 1/N sum_k q_k; momentum of what is sent whole.

    Parameters
    ----------
    mu : float
        m, the clients'.
    nesterov : bool
        Nesterov's momentum, as the clients'.
    eta : float
        Rate of the server.
    """

    def __init__(
        self, mu: float = 0.9, nesterov: bool = False, eta: float = 1.0, **arguments: object
    ) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        within("(0, inf)", eta=eta)
        self.mu, self.nesterov, self.eta = mu, nesterov, eta
        self.x: dict[str, np.ndarray] = {}
        self.m: dict[str, np.ndarray] = {}

    def check(self, cfg: DictConfig) -> None:
        """Check that clients have their half, with this momentum; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, ("mu", "nesterov"), "what is sent whole has the same momentum")
        said = cfg.strategy.local
        workers, clients = said.get("workers", 1), cfg.clients_per_round
        if said.get("clipping_norm") is not None and workers != clients:
            raise ConfigError(
                f"strategy.local.workers={workers} should be clients_per_round={clients}: each has "
                "its share of strategy.local.clipping_norm"
            )
        key = "strategy.local.warmup_rounds"
        check_reached(cfg, key, said.get("warmup_rounds", 0), "the density never falls to rho")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send x."""
        self.x = {name: array.numpy().astype(np.float64) for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return x after a step along the mean of what came."""
        replies = list(replies)
        dense = _mean([cast(ArrayRecord, reply.content.pop(DENSE)) for reply in replies])
        step = _mean([reply.content.array_records[SPARSE] for reply in replies])
        _, metrics = super().aggregate_train(server_round, replies)
        for name, g in dense.items():
            m = self.m.get(name, np.zeros_like(g))
            self.m[name] = self.mu * (m + g) if self.nesterov else self.mu * m + g
            step[name] = self.m[name] + g if self.nesterov else self.m[name]
        x = {n: (x - self.eta * step[n]).astype(np.float32) for n, x in self.x.items()}
        return ArrayRecord({n: Array(np.asarray(v)) for n, v in x.items()}), metrics


def _mean(records: list[ArrayRecord]) -> dict[str, np.ndarray]:
    return {n: np.mean([r[n].numpy() for r in records], axis=0, dtype=float) for n in records[0]}
