"""SCAFCOM (Huang, Li and Li 2024, https://arxiv.org/abs/2308.08165): SCALLION for a biased Q.

Top-k and its like shrink what they encode, always the same way. A client's momentum v_i takes out
what sampling adds to its gradients, and what Q leaves out of ``v_i - c_i`` stays in that difference
until it is sent::

    y_i <- y_i - eta_l (g_i(y_i) - c_i + c),      K times from y_i = x
    v_i <- (1 - beta) v_i + beta ((x - y_i) / (eta_l K) + c_i - c)
    q_i = Q(v_i - c_i)                            q_i is all that is sent
    c_i <- c_i + q_i
    x <- x - eta_g eta_l K (1/|S| sum_S q_i + c)  with the c that the clients got
    c <- c + 1/N sum_S q_i.

With beta = 1 and without Q all models are those of SCAFFOLD, option II. A client that is not asked
keeps v_i and c_i. Units, and what takes the place of the gradient under AdamW, are those of
`strategies.scallion`, and so is the server's half.
"""

from collections.abc import Mapping

import numpy as np

from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.tree import Tree, zeros
from strategies._checks import within
from strategies.scaffold import CONTROL
from strategies.scallion import CHANGE, Scallion, own_way


class ScafcomClient(LocalMethod):
    """Local steps with c - c_i; v_i and c_i between rounds.

    Parameters
    ----------
    beta : float
        Share of the new in the momentum, in (0, 1].
    """

    def __init__(self, beta: float) -> None:
        within("(0, 1]", beta=beta)
        self.beta = float(beta)

    def start(self, theta0: Tree) -> Tree:
        """Return c_i = 0 and v_i = 0."""
        return _memory(zeros(theta0), zeros(theta0))

    def run(self, given: Assignment) -> Answer:
        """Return v_i - c_i; q_i is what the codec makes of it."""
        c = given.parts[CONTROL]
        c_i = {n: given.memory[f"c/{n}"] for n in c}
        own, metrics = own_way(given, c, c_i)
        beta = np.float32(self.beta)
        v_i = {n: (1 - beta) * given.memory[f"v/{n}"] + beta * own[n] for n in c}

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """c_i <- c_i + q_i."""
            return _memory({n: c_i[n] + sent[CHANGE][n] for n in c}, v_i)

        return Answer({CHANGE: {n: v_i[n] - c_i[n] for n in c}}, metrics, remember)


def _memory(c_i: Tree, v_i: Tree) -> Tree:
    return {f"{kind}/{n}": x for kind, tree in (("c", c_i), ("v", v_i)) for n, x in tree.items()}


class Scafcom(Scallion):
    """The server's half, that of SCALLION."""

    local = "strategies.scafcom.ScafcomClient"
