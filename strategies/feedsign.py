"""FeedSign (Cai et al. 2025, https://arxiv.org/abs/2501.17610): a bit up and a bit down a step.

Every machine holds the same w and draws the same direction z_t from t. A client probes its loss
along z_t by two forward passes, and votes whether z_t leads up or down::

    rho_k = (L_k(w + eps z_t) - L_k(w - eps z_t)) / (2 eps),     f_k = sign(rho_k),
    f = sign(sum_k f_k),     w <- w - eta f z_t,

and the majority is all that is sent back. The sign of 0 is +, so a tie is +1. Votes count the same,
however much data is behind them. Replay of the votes from w0 gives the model, bit for bit.

Reconstructed, since there is no public code: the two-sided probe, the update and the rule for ties.
Ours is that a round has P directions, all probed at the same w, in one message of P bits::

    w <- w - eta / P sum_p f_p z_p,

for a message costs some hundred bytes whatever is in it; P = 1 is the paper's protocol. Step t of
T of a client's turn probes the directions t, t + T, t + 2 T ... below P, or t modulo P where there
are more steps than directions; the client votes by the sum of the slopes of a direction.

A client whose last reply was of the round before has w of that round, and gets the P bits of it.
Any other gets all votes of the run so far, and replays them from w0.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig
from torch import nn

from fl_app.codecs.parts.groups import concatenate
from fl_app.config import ConfigError
from fl_app.faults import FaultError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks
from fl_app.training.zeroth_order import MOST_MASTER, Point, Vector, direction, moved
from fl_app.tree import Tree, split
from fl_app.wire.messages import BY_NODE, FORM
from strategies._checks import (
    check_local,
    check_shared,
    check_zeroth_order,
    whole_from,
    within,
)
from strategies._signs import signs

CLIENT = "strategies.feedsign.FeedSignClient"
VOTES, ORBIT = "votes", "orbit"  # of the last round; of all rounds
NEXT = "next"  # the form of a message to a client that has w of the round before
SHARED = ("directions", "rounds", "master", "eta")
VALUES, ROUND, W = "values", "round", "w/"
MOST_DIRECTIONS = 1 << 12  # of a round: each is two forward passes of a client, whoever set P


def after(w: Vector, votes: np.ndarray, first_round: int, eta: float, master: int) -> Vector:
    """Return w after the rounds from ``first_round``; the same bits on every machine.

    Parameters
    ----------
    votes : array, [rounds, P]
        f of each round and direction.
    """
    p = votes.shape[1]
    first = (first_round - 1) * p
    return moved(
        w, ((first + k, eta / p * f) for k, f in enumerate(votes.ravel().tolist())), master
    )


def check_steps(directions: int, rounds: int, master: int, eta: float) -> None:
    """Check what all machines share; ValueError if a value cannot be, or asks for too many."""
    whole_from(1, MOST_DIRECTIONS, directions=directions)
    whole_from(1, rounds=rounds)
    whole_from(0, MOST_MASTER, master=master)
    within("(0, inf)", eta=eta)


class FeedSignClient(LocalMethod):
    """Votes on P directions; w between rounds.

    Parameters
    ----------
    directions : int
        P.
    rounds : int
        Rounds of the run: all votes are of a fixed size.
    master : int
        The seed that all z are drawn from.
    eta, eps : float
        Rate, and size of a probe.
    """

    unscaled = (VOTES,)

    def __init__(self, directions: int, rounds: int, master: int, eta: float, eps: float) -> None:
        check_steps(directions, rounds, master, eta)
        within("(0, inf)", eps=eps)
        self.directions, self.rounds, self.master = directions, rounds, master
        self.eta, self.eps = float(eta), float(eps)

    def start(self, theta0: Tree) -> Tree:
        """Return w0, as of round 0."""
        kept = {f"{W}{n}": x for n, x in theta0.items()}
        return {**kept, ROUND: np.zeros(1, np.float32)}

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return a value for each vote."""
        del theta0
        rounds = self.rounds if part == ORBIT else 1
        return {VALUES: np.ones((rounds, self.directions), np.float32)}

    def run(self, given: Assignment) -> Answer:
        """Return f_k.

        Raises
        ------
        FaultError
            If the server sends the last votes to a client that has lost its w.
        """
        w = self.current(given)
        point = Point(given.model, split(w, given.theta0))
        first = (given.server_round - 1) * self.directions
        slopes = np.zeros(self.directions)
        total = done = 0

        def begin(model: nn.Module, steps: int) -> None:
            nonlocal total
            total = steps

        def probe(model: nn.Module, loss: Callable[[], float]) -> float | None:
            """Add this step's rho to those of its directions."""
            nonlocal done
            means = []
            for p in range(done % self.directions, self.directions, total):
                rho, mean = point.slope(loss, direction(self.master, first + p, w.size), self.eps)
                if np.isfinite(rho):
                    slopes[p] += rho
                    means.append(mean)
            done += 1
            return float(np.mean(means)) if means else None

        trained = given.train(Hooks(starts=[begin], solver=probe))

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """Keep w of this round."""
            kept = {f"{W}{n}": x for n, x in split(w, given.theta0).items()}
            return {**kept, ROUND: np.full(1, given.server_round, np.float32)}

        votes = signs(slopes).reshape(1, -1)
        return Answer({VOTES: {VALUES: votes}}, trained.metrics, remember)

    def current(self, given: Assignment) -> Vector:
        """Return w of this round: the kept one after the last votes, or w0 after all of them."""
        before = given.server_round - 1
        if given.form != NEXT:
            votes = given.parts[ORBIT][VALUES][:before]
            return after(concatenate(given.theta0), votes, 1, self.eta, self.master)
        if int(given.memory[ROUND][0]) != before:
            raise FaultError("lost_memory")
        kept = concatenate({n: given.memory[f"{W}{n}"] for n in given.theta0})
        return after(kept, given.parts[VOTES][VALUES], before, self.eta, self.master)


class FeedSign(FedAvg):
    """The majority of the votes.

    Parameters
    ----------
    directions, rounds, master
        See `FeedSignClient`.
    eta : float
        Rate.
    """

    def __init__(
        self, directions: int, rounds: int, master: int, eta: float, **arguments: object
    ) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        check_steps(directions, rounds, master, eta)
        self.directions, self.rounds, self.master, self.eta = directions, rounds, master, eta
        self.w: dict[str, np.ndarray] = {}
        self.orbit = np.ones((rounds, directions), np.float32)  # +1 where nothing is known yet
        self.last: dict[str, int] = {}  # by client, the round of its last reply

    def check(self, cfg: DictConfig) -> None:
        """Check that all draw the same directions and know w0; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, SHARED, "all machines take the same steps")
        check_zeroth_order(cfg)
        if cfg.rounds != self.rounds:
            raise ConfigError(
                f"strategy.inner.rounds={self.rounds} should be rounds={cfg.rounds}: all votes of "
                "the run have room in a message"
            )
        if cfg.federation.sampling == BY_NODE:
            raise ConfigError(
                f"federation.sampling={BY_NODE}, but the last votes are for clients that took part "
                "in the round before, which must be known: set it to partitions"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the last votes to who can go on from them, all votes to the others."""
        self.w = self.w or {n: array.numpy() for n, array in arrays.items()}
        orbit = {ORBIT: _record(self.orbit)}
        last = {VOTES: _record(self.orbit[server_round - 2 : server_round - 1])}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            # Until it replies nothing is sure of it: its memory may be lost.
            known = self.last.pop(str(message.metadata.dst_node_id), 0)
            follows = 0 < known == server_round - 1
            ((key, kept),) = message.content.config_records.items()
            said = ConfigRecord({**kept, **({FORM: NEXT} if follows else {})})
            message.content = RecordDict({**(last if follows else orbit), key: said})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return w after the steps of the majority."""
        replies = list(replies)
        votes = [cast(ArrayRecord, reply.content[VOTES])[VALUES].numpy() for reply in replies]
        _, metrics = super().aggregate_train(server_round, replies)
        majority = signs(np.sum([signs(one) for one in votes], axis=0))
        self.orbit = self.orbit.copy()
        self.orbit[server_round - 1] = majority
        w = after(concatenate(self.w), majority, server_round, self.eta, self.master)
        self.w = split(w, self.w)
        self.last |= {str(one.metadata.src_node_id): server_round for one in replies}
        return ArrayRecord({n: Array(x) for n, x in self.w.items()}), metrics


def _record(values: np.ndarray) -> ArrayRecord:
    return ArrayRecord({VALUES: Array(values)})
