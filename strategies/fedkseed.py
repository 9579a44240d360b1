"""FedKSeed (Qin et al. 2024, https://arxiv.org/abs/2312.06353): a model of K seeds and K sums.

All of the trained model is w0, which everybody can rebuild, and a sum for each of K fixed random
directions z(s) in R^d, standard normal::

    w = w0 - sum_s A_s z(s).

A client rebuilds w from A, and in each of its steps draws s from p and probes the loss of the
batch along z(s), by two forward passes::

    rho = (L(w + eps z(s)) - L(w - eps z(s))) / (2 eps),     w <- w - eta rho z(s).

It sends a_s = the sum of eta rho over its steps with s; the server takes the weighted mean::

    A_s <- A_s + sum_i p_i a_{i,s}.

Up go at most as many numbers as there were steps, and down go K, whatever d is; a client that was
away needs nothing else. A step is skipped whose loss is not a finite number, or whose two losses
are more than ``max_difference`` apart.

FedKSeed-Pro draws seeds that mattered more often: amp_s is the mean of a history of |rho|, clipped
to c, that starts with one 0, and p = softmax((amp - min amp) / (max amp - min amp)), uniform where
all are equal.

The paper's A is ours over eta: with eta in it, A stays right where eta changes. Ours too is that a
client adds to the history of s its mean over the steps of a turn, not each step, and that z(s)
comes from numpy's Philox (`fl_app.training.zeroth_order`), so that processors and GPUs agree.
``federation.max_update_rms`` bounds the root mean square of a client's a; of its change of w it is
sqrt(K) times as much.
"""

from collections.abc import Callable, Iterable, Mapping
from math import e, inf
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig
from torch import nn

from fl_app.codecs import WireError
from fl_app.codecs.parts.groups import concatenate
from fl_app.faults import FaultError
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import Hooks
from fl_app.training.zeroth_order import MOST_MASTER, Point, Vector, direction, moved
from fl_app.tree import Tree, split
from fl_app.wire.messages import FORM
from strategies._checks import (
    ROUNDED,
    check_local,
    check_shared,
    check_zeroth_order,
    switches,
    whole_from,
    within,
)

CLIENT = "strategies.fedkseed.FedKSeedClient"
SUMS, CHANGES, PROBABILITIES, AMPLITUDES = "sums", "changes", "probabilities", "amplitudes"
PRO = "pro"  # the form of FedKSeed-Pro
SHARED = ("seeds", "master")
VALUES = "values"  # the one tensor of each part
MOST_SEEDS = 1 << 16  # a client draws all K directions to rebuild w, whoever set K


def model_of(w0: Tree, sums: Vector, master: int) -> Tree:
    """Return w0 - sum_s A_s z(s), s in ascending order; the same bits on every machine."""
    return split(moved(concatenate(w0), enumerate(sums.tolist()), master), w0)


def check_directions(seeds: int, master: int) -> None:
    """Check K and the seed of all z(s); ValueError if there are too few directions, or too many."""
    whole_from(1, MOST_SEEDS, seeds=seeds)
    whole_from(0, MOST_MASTER, master=master)


class FedKSeedClient(LocalMethod):
    """Steps along seeded directions, by forward passes alone.

    Parameters
    ----------
    seeds : int
        K.
    master : int
        The seed that all z(s) are drawn from.
    eta, eps : float
        Rate, and size of a probe.
    clip : float
        c, of Pro.
    max_difference : float or None
        Of the two losses of a probe; with more a step is skipped.
    """

    unscaled = (AMPLITUDES,)

    def __init__(
        self,
        seeds: int,
        master: int,
        eta: float,
        eps: float,
        clip: float,
        max_difference: float | None = None,
    ) -> None:
        check_directions(seeds, master)
        within("(0, inf)", eta=eta, eps=eps, clip=clip)
        if max_difference is not None:
            within("(0, inf)", max_difference=max_difference)
        self.max_slope = inf if max_difference is None else max_difference / (2 * eps)
        self.seeds, self.master = seeds, master
        self.eta, self.eps, self.clip = float(eta), float(eps), float(clip)

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return K zeros: no part is of the size of the model."""
        del part, theta0
        return {VALUES: np.zeros(self.seeds, np.float32)}

    def check_sent(self, parts: Mapping[str, Tree], client: int, server_round: int) -> None:
        """Check that means of |rho| are no larger than c allows, but for what a codec adds."""
        most = self.eta * self.clip
        for x in parts.get(AMPLITUDES, {}).values():
            if not (-most <= x.min() and x.max() <= ROUNDED * most):
                raise WireError(
                    f"the mean sizes of slopes are from {x.min():.3g} to {x.max():.3g}, and "
                    f"strategy.local.clip allows 0 to {most:.3g}"
                )

    def run(self, given: Assignment) -> Answer:
        """Return a, and in Pro the mean of |rho| of each seed.

        Raises
        ------
        FaultError
            If the probabilities are none of Pro's.
        DivergedError
            If no step has a loss that is a number.
        """
        sums = given.parts[SUMS][VALUES]
        p = np.full(self.seeds, 1.0)
        if given.form == PRO:
            p = given.parts[PROBABILITIES][VALUES].astype(np.float64)
            if not 0 < p.max() <= ROUNDED * e * p.min():
                raise FaultError(
                    "other_value", key=PROBABILITIES, said=f"{p.min():.3g} to {p.max():.3g}",
                    own="draws none more than e times as often as another",
                )  # fmt: skip
        point = Point(given.model, model_of(given.theta0, sums, self.master))
        drawn = np.random.default_rng(given.seed)
        history: list[tuple[int, float]] = []

        def step(model: nn.Module, loss: Callable[[], float]) -> float | None:
            """w <- w - eta rho z(s)."""
            s = int(drawn.choice(self.seeds, p=p / p.sum()))
            z = direction(self.master, s, point.w.size)
            rho, mean = point.slope(loss, z, self.eps)
            if not np.isfinite(rho):
                return None
            if abs(rho) > self.max_slope:
                return mean
            point.w -= np.float32(self.eta * rho) * z
            point.write(point.w)
            history.append((s, rho))
            return mean

        trained = given.train(Hooks(solver=step))
        parts = {CHANGES: self._summed(history, lambda rho: self.eta * rho)}
        if given.form == PRO:
            sizes = self._summed(history, lambda rho: self.eta * min(abs(rho), self.clip))
            counts = self._summed(history, lambda rho: 1.0)
            parts[AMPLITUDES] = {
                VALUES: np.asarray(sizes[VALUES] / np.maximum(counts[VALUES], 1), np.float32)
            }
        return Answer(parts, trained.metrics)

    def _summed(self, history: list[tuple[int, float]], value: Callable[[float], float]) -> Tree:
        """Return the sum of a value of rho by seed."""
        found = np.zeros(self.seeds)
        for s, rho in history:
            found[s] += value(rho)
        return {VALUES: found.astype(np.float32)}


class FedKSeed(FedAvg):
    """The weighted mean of the clients' sums, added to A; p from what is known of rho.

    Parameters
    ----------
    seeds : int
        K.
    master : int
        The seed that all z(s) are drawn from.
    pro : bool
        FedKSeed-Pro.
    """

    def __init__(self, seeds: int, master: int, pro: bool = False, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        check_directions(seeds, master)
        switches(pro=pro)
        self.seeds, self.master, self.pro = seeds, master, pro
        self.w0: dict[str, np.ndarray] = {}
        self.sums = np.zeros(seeds)
        self.amplitudes, self.counts = np.zeros(seeds), np.ones(seeds)

    def check(self, cfg: DictConfig) -> None:
        """Check that both halves draw the same directions, and w0 is known; ConfigError if not."""
        check_local(cfg, CLIENT)
        check_shared(cfg, self, SHARED, "both ends draw the directions")
        check_zeroth_order(cfg)

    @property
    def probabilities(self) -> np.ndarray:
        """Return p; it sums to 1, and none of it is more than e times another."""
        amp = self.amplitudes / self.counts
        spread = amp.max() - amp.min()
        scaled = (amp - amp.min()) / spread if spread > 0 else np.zeros_like(amp)
        weights = np.exp(scaled)
        return np.asarray(weights / weights.sum())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send A, and in Pro p."""
        self.w0 = self.w0 or {n: array.numpy() for n, array in arrays.items()}
        records = {SUMS: _record(self.sums)}
        said: dict[str, str] = {}
        if self.pro:
            records[PROBABILITIES], said = _record(self.probabilities), {FORM: PRO}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            ((key, kept),) = message.content.config_records.items()
            message.content = RecordDict({**records, key: ConfigRecord({**kept, **said})})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model of the new A."""
        replies = list(replies)
        for reply in replies if self.pro else []:
            amplitudes = cast(ArrayRecord, reply.content.pop(AMPLITUDES))[VALUES].numpy()
            self.amplitudes = self.amplitudes + np.maximum(amplitudes, 0)
            self.counts = self.counts + (amplitudes > 0)
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, metrics
        self.sums = self.sums + mean[VALUES].numpy()
        x = model_of(self.w0, self.sums.astype(np.float32), self.master)
        return ArrayRecord({n: Array(v) for n, v in x.items()}), metrics


def _record(values: np.ndarray) -> ArrayRecord:
    return ArrayRecord({VALUES: Array(values.astype(np.float32))})
