"""SCAFFOLD (Karimireddy et al. 2020, https://arxiv.org/abs/1910.06378), algorithm 1, option II.

Clients drift towards their own optimum when their data differ. A control variate of the server, c,
and one of every client, c_i, estimate the directions of all and of one; local steps follow::

    y_i <- y_i - eta_l (g_i(y_i) + c - c_i)                                             (eq. 3)
    c_i+ = c_i - c + (x - y_i) / (K eta_l)                                   (option II, eq. 4)

and the server takes the means over the sampled S of all N clients::

    x <- x + eta_g / |S| sum_S (y_i - x),     c <- c + 1/N sum_S (c_i+ - c_i)           (eq. 5).

With plain SGD at a constant rate, eq. 4 says that c_i+ is the mean of the uncorrected gradients g_i
along the path. That mean is computed here, also for AdamW, clipping and schedules, where eq. 4 is
no gradient: this extension is ours. The correction is added before clipping.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig
from torch import from_numpy, nn

from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks
from fl_app.tree import Tree, zeros
from strategies._checks import check_clients, check_local, within

CONTROL = "control"
CLIENT = "strategies.scaffold.ScaffoldClient"


class ScaffoldClient(LocalMethod):
    """Local steps with c - c_i, and c_i between rounds."""

    def start(self, theta0: Tree) -> Tree:
        """Return c_i = 0."""
        return zeros(theta0)

    def run(self, given: Assignment) -> Answer:
        """Return y_i and c_i+ - c_i."""
        c, c_i = given.parts[CONTROL], given.memory
        g_sum = {name: np.zeros(x.shape) for name, x in c_i.items()}
        steps = 0

        def correct(model: nn.Module) -> None:
            """g <- g + c - c_i."""
            nonlocal steps
            steps += 1
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and name in c:
                    g_sum[name] += parameter.grad.detach().cpu().numpy()
                    parameter.grad += from_numpy(c[name] - c_i[name]).to(parameter.grad)

        trained = given.train(Hooks(gradients=[correct]))
        change = {n: (g_sum[n] / max(1, steps)).astype(np.float32) - c_i[n] for n in c_i}

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """c_i <- c_i + the change as the server reads it, so that c stays the mean of c_i."""
            return {n: c_i[n] + sent[CONTROL][n] for n in c_i}

        return Answer({"model": trained.model, CONTROL: change}, trained.metrics, remember)


class Scaffold(FedAvg):
    """The means of models and of changes of control variates.

    Parameters
    ----------
    clients : int
        N, all clients, sampled or not.
    eta_g : float
        Rate of the server.
    """

    local = CLIENT

    def __init__(self, clients: int, eta_g: float = 1.0, **arguments: object) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        within("(0, inf)", eta_g=eta_g)
        self.clients, self.eta_g = clients, eta_g
        self.x: dict[str, np.ndarray] = {}
        self.c: dict[str, np.ndarray] = {}

    def check(self, cfg: DictConfig) -> None:
        """Check that N is the run's, and that clients have their half; ConfigError if not."""
        check_clients(cfg, self.clients, "c is the mean over all of them")
        check_local(cfg, self.local)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send x and c."""
        self.x = {name: array.numpy().astype(np.float64) for name, array in arrays.items()}
        self.c = self.c or {name: np.zeros_like(x) for name, x in self.x.items()}
        control = ArrayRecord({n: Array(c.astype(np.float32)) for n, c in self.c.items()})
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content[CONTROL] = control
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return ``x + eta_g mean(y_i - x)``, and add ``|S|/N mean(c_i+ - c_i)`` to c."""
        replies = list(replies)
        changes = [cast(ArrayRecord, reply.content.pop(CONTROL)) for reply in replies]
        models = [reply.content.array_records["arrays"] for reply in replies]
        for name in self.c:
            self.c[name] += sum(change[name].numpy() for change in changes) / self.clients
        _, metrics = super().aggregate_train(server_round, replies)
        x = {
            name: start
            + self.eta_g * (np.mean([y[name].numpy() for y in models], axis=0, dtype=float) - start)
            for name, start in self.x.items()
        }
        return ArrayRecord({n: Array(v.astype(np.float32)) for n, v in x.items()}), metrics
