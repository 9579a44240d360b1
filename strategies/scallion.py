"""SCALLION (Huang, Li and Li 2024, https://arxiv.org/abs/2308.08165): SCAFFOLD in one vector.

A client of SCAFFOLD sends its model and the change of its control variate. Both follow from one
vector, which is compressed here by an unbiased Q, and damped by alpha::

    y_i <- y_i - eta_l (g_i(y_i) - c_i + c),      K times from y_i = x
    delta_i = alpha ((x - y_i) / (eta_l K) - c),  q_i = Q(delta_i)
    c_i <- c_i + q_i                              q_i is all that is sent
    x <- x - eta_g eta_l K (1/|S| sum_S q_i + c)  with the c that the clients got
    c <- c + 1/N sum_S q_i.

(x - y_i) / (eta_l K) + c_i - c is the mean of the gradients g_i along the path. With alpha = 1 and
without Q all models are those of SCAFFOLD, option II.

Units and other optimizers are ours: c, c_i and q_i are kept times eta_l K, as the distance that a
turn goes, so that neither eta_l nor K is needed, which differ by schedule and by client. A step of
plain SGD is then ``y_i <- y_i - eta_l g_i(y_i) - (c - c_i) / K``, the line above. For AdamW, with
clipping or a schedule, the optimizer's own step takes the place of ``eta_l g_i``, and c_i estimates
the way that client i goes by its own steps.

Q may lose what it likes but should remember nothing: c_i is its memory.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from omegaconf import DictConfig
from torch import nn

from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks
from fl_app.tree import Tree, zeros
from strategies._checks import check_forgets, within
from strategies.scaffold import CONTROL, Scaffold

CHANGE = "change"


class ScallionClient(LocalMethod):
    """Local steps with c - c_i, and c_i between rounds.

    Parameters
    ----------
    alpha : float
        In (0, 1]. The more Q loses, the smaller.
    """

    def __init__(self, alpha: float) -> None:
        within("(0, 1]", alpha=alpha)
        self.alpha = float(alpha)

    def start(self, theta0: Tree) -> Tree:
        """Return c_i = 0."""
        return zeros(theta0)

    def run(self, given: Assignment) -> Answer:
        """Return delta_i; q_i is what the codec makes of it."""
        c, c_i = given.parts[CONTROL], given.memory
        own, metrics = own_way(given, c, c_i)
        delta = {n: np.float32(self.alpha) * (own[n] - c_i[n]) for n in c_i}

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """c_i <- c_i + q_i."""
            return {n: c_i[n] + sent[CHANGE][n] for n in c_i}

        return Answer({CHANGE: delta}, metrics, remember)


def own_way(given: Assignment, c: Tree, c_i: Tree) -> tuple[Tree, Mapping[str, float]]:
    """Train with c - c_i; return ``x - y_i + c_i - c``, and the metrics."""
    correction = {n: torch.from_numpy(c[n] - c_i[n]) for n in c_i}
    part: list[tuple[nn.Parameter, torch.Tensor]] = []

    def begin(model: nn.Module, steps: int) -> None:
        for name, parameter in model.named_parameters():
            if name in correction:
                part.append((parameter, (correction[name] / steps).to(parameter)))

    def correct(model: nn.Module, rate: float) -> None:
        """y_i <- y_i - (c - c_i) / K."""
        del model, rate
        with torch.no_grad():
            for parameter, step in part:
                parameter.sub_(step)

    trained = given.train(Hooks(starts=[begin], steps=[correct]))
    x, y = given.parts["model"], trained.model
    return {n: x[n] - y[n] - correction[n].numpy() for n in c_i}, trained.metrics


class Scallion(Scaffold):
    """The sum of what clients send, in x and in c; for N and ``eta_g`` see `Scaffold`."""

    local = "strategies.scallion.ScallionClient"

    def check(self, cfg: DictConfig) -> None:
        """Check N, the clients' half and that Q remembers nothing; ConfigError if not."""
        super().check(cfg)
        check_forgets(cfg, "c_i")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return ``x - eta_g (mean(q_i) + c)``, and add ``|S|/N mean(q_i)`` to c."""
        replies = list(replies)
        sent = [cast(ArrayRecord, reply.content[CHANGE]) for reply in replies]
        _, metrics = super(Scaffold, self).aggregate_train(server_round, replies)
        x = {}
        for name, start in self.x.items():
            q = np.sum([one[name].numpy() for one in sent], axis=0, dtype=float)
            x[name] = start - self.eta_g * (q / len(sent) + self.c[name])
            self.c[name] = self.c[name] + q / self.clients
        return ArrayRecord({n: Array(v.astype(np.float32)) for n, v in x.items()}), metrics
