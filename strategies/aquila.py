"""AQUILA (Zhao et al. 2023, https://arxiv.org/abs/2308.00258): innovations, sent when large.

Every device m keeps q_m, what the server knows of its gradient g_m, and sends what is new in it,
with a level that the innovation itself says; it stays silent where that would change little. In
round k, with M devices::

    u = g_m - q_m
    b = ceil(log2(|u|_inf sqrt(d) / |u|_2 + 1)),  tau = 1 / (2^b - 1)
    dq = u in steps of 2 tau |u|_inf,             eps = u - dq
    silent if  |dq|^2 + |eps|^2 <= beta / alpha^2 |theta^k - theta^(k-1)|^2
    q_m <- q_m + dq                               of devices that send, at both ends
    theta^(k+1) = theta^k - alpha / M sum_m q_m   over all devices, silent or not.

The paper's text was not at hand. Its abstracts give the ingredients: innovations, a level that
minimizes what skipping does to the model, devices that select themselves by the models they store.
Reconstructed are the equation of b, with the rounding up (at b = 1 the error does not shrink), and
the criterion of silence. b and dq are the codec's: ``uniform`` with ``adaptive``, whose grid has a
level at zero where LAQ's, which AQUILA extends, has none. Any other codec works too.

g_m is ``theta^k - y_m``, the way that the local steps go: gradients times eta_l H, in the units in
which alpha is the rate of the server, and 1 is FedAvg.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import Tree, zeros
from strategies._checks import check_clients, check_forgets, check_local, check_shared, within

INNOVATION = "innovation"


class AquilaClient(LocalMethod):
    """Local steps, the innovation if it is large, and q_m and theta^(k-1) between rounds.

    Parameters
    ----------
    alpha : float
        Rate of the server.
    beta : float
        0: silent without innovation only. The larger, the more often.
    """

    may_be_silent = True

    def __init__(self, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        within("(0, inf)", alpha=alpha)
        within("[0, inf)", beta=beta)

    def start(self, theta0: Tree) -> Tree:
        """Return q_m = 0 and theta^(-1) = theta^0."""
        return _memory(zeros(theta0), theta0)

    def run(self, given: Assignment) -> Answer:
        """Return the innovation, or nothing."""
        theta = given.parts["model"]
        q_m = {n: given.memory[f"q/{n}"] for n in theta}
        last = {n: given.memory[f"theta/{n}"] for n in theta}
        trained = given.train(NO_HOOKS)
        u = {n: theta[n] - trained.model[n] - q_m[n] for n in theta}
        dq = given.decoded({INNOVATION: u})[INNOVATION]
        skipped = _squares(dq) + _squares({n: u[n] - dq[n] for n in u})
        moved = _squares({n: theta[n] - last[n] for n in theta})
        silent = skipped <= self.beta / self.alpha**2 * moved

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """q_m <- q_m + dq, and theta^k."""
            q = {n: q_m[n] + sent[INNOVATION][n] for n in q_m} if sent else q_m
            return _memory(q, theta)

        return Answer({} if silent else {INNOVATION: u}, trained.metrics, remember)


def _memory(q_m: Tree, theta: Tree) -> Tree:
    return {f"{k}/{n}": x for k, tree in (("q", q_m), ("theta", theta)) for n, x in tree.items()}


def _squares(tree: Tree) -> float:
    return sum(float(np.square(x, dtype=np.float64).sum()) for x in tree.values())


class Aquila(FedAvg):
    """theta, and the sum of what is known of all devices.

    Parameters
    ----------
    clients : int
        M, all of whom are asked in every round.
    alpha : float
        Rate of the server.
    """

    moves_in_silence = True

    def __init__(self, clients: int, alpha: float = 1.0, **arguments: object) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        self.clients, self.alpha = clients, alpha
        self.theta: dict[str, np.ndarray] = {}
        self.q_sum: dict[str, np.ndarray] = {}

    def check(self, cfg: DictConfig) -> None:
        """Check that all devices are asked, and have their half; ConfigError if not."""
        check_clients(cfg, self.clients, "the mean is over all of them")
        check_local(cfg, "strategies.aquila.AquilaClient")
        check_forgets(cfg, "q_m")
        if cfg.clients_per_round != self.clients:
            raise ConfigError(
                f"clients_per_round={cfg.clients_per_round} should be federation.clients="
                f"{self.clients}: with strategy=aquila clients choose themselves whether to send"
            )
        check_shared(cfg, self, ["alpha"], "the rate at which the server moves")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send theta."""
        self.theta = {name: array.numpy().astype(np.float64) for name, array in arrays.items()}
        self.q_sum = self.q_sum or {name: np.zeros_like(x) for name, x in self.theta.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add what came to the sum of all q_m, and return ``theta - alpha / M sum_m q_m``."""
        replies = list(replies)
        for reply in replies:
            for name, dq in cast(ArrayRecord, reply.content[INNOVATION]).items():
                self.q_sum[name] = self.q_sum[name] + dq.numpy()
        metrics = super().aggregate_train(server_round, replies)[1] if replies else None
        rate = self.alpha / self.clients
        theta = {name: x - rate * self.q_sum[name] for name, x in self.theta.items()}
        return ArrayRecord({n: Array(x.astype(np.float32)) for n, x in theta.items()}), metrics
