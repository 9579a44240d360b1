"""FedEP: federated learning as inference (Guo et al. 2023, https://arxiv.org/abs/2302.04228).

The posterior of the weights is a product of Gaussian factors with diagonal precision, one of each
client's data and a prior around theta0::

    q = q_0 prod_k q_k,     by natural parameters Lambda and eta = Lambda mu,

which products add, quotients subtract and powers multiply. A client k divides its own site out of
q, and fits what remains times its likelihood, n_k rows with a mean loss of L_k::

    cavity     q_-k = q / q_k                                            (method="fedep")
                    = q^(1 - 1/N), and no site is kept                   ("fedsep")
    objective  n_k L_k(theta) + 1/2 (theta - mu_c)^T Lambda_c (theta - mu_c)
    tilted     mu_t: the mean of ``samples`` iterates;   Lambda_t = Lambda_k + Lambda_c
    delta      tilted / q, no longer than ``max_norm``, to the power 1/K of K clients
    site       q_k <- q_k delta

The server multiplies q by all deltas, through SGD on (eta, Lambda); the model is mu = eta / Lambda.
The local part Lambda_k is one of::

    identity   c n_k, one number for all values: FedProx with a memory
    laplace    c n_k times the mean square of the batches' gradients, clipped to mean +- 2 std
    swag       c / (variance of the iterates + ``shrinkage``)

Cavity, tilted fit, deltas, damping and the order of it follow the authors' code
(https://github.com/HanGuo97/expectation-propagation). What is ours: the turn is the local loop,
whose optimizer, clipping and schedule are the run's; rows of FedSEP count as if all clients had the
same number; gradients are those of true labels, a batch at a time; and a precision is kept from
falling to 0: a tilted one to ``LEAST`` of q's on the client, deltas and their sum on the server. A
cavity that is negative, where others have learnt more than q says, pulls nowhere.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from fl_app.config import ConfigError
from fl_app.privacy import is_example_level
from fl_app.training.hooks.path import Path
from fl_app.training.local import Answer, Assignment, LocalMethod
from fl_app.training.loop import GradientHook, Hooks
from fl_app.tree import Tree, zeros
from strategies._checks import (
    ROUNDED,
    check_clients,
    check_forgets,
    check_local,
    check_shared,
    whole_from,
    within,
)

CLIENT = "strategies.fedep.FedEPClient"
ETA, PRECISION = "eta", "precision"  # parts
ALL = "all"  # the one precision of identity
METHODS, COVARIANCES = ("fedep", "fedsep"), ("identity", "laplace", "swag")
SHARED = ("clients", "clients_per_round", "covariance", "prior", "max_norm")
LEAST = 0.01  # share of a precision that a step leaves

Values = Mapping[str, NDArray[np.floating]]


class Gaussian(NamedTuple):
    """A factor: eta by tensor; Lambda by tensor, or one number, called `ALL`."""

    eta: Values
    precision: Values

    def at(self, name: str) -> NDArray[np.floating]:
        """Return Lambda of a tensor, or the number that holds for it."""
        return self.precision[name] if name in self.precision else self.precision[ALL].reshape(())

    def plus(self, other: "Gaussian", power: float = 1.0) -> "Gaussian":
        """Return this one times the ``power`` of another."""
        return Gaussian(
            {n: np.asarray(x + power * other.eta[n]) for n, x in self.eta.items()},
            {n: np.asarray(x + power * other.precision[n]) for n, x in self.precision.items()},
        )

    def mean(self, flat: Values) -> dict[str, NDArray[np.floating]]:
        """Return mu = eta / Lambda, and what ``flat`` says where Lambda is 0."""
        found = {}
        for name, eta in self.eta.items():
            precision = np.broadcast_to(self.at(name), eta.shape)
            known = precision > 0
            found[name] = np.where(known, eta / np.where(known, precision, 1), flat[name])
        return found

    def tree(self) -> tuple[Tree, Tree]:
        """Return eta and Lambda in float32."""
        eta, precision = ({n: np.asarray(x, np.float32) for n, x in one.items()} for one in self)
        return eta, precision


def around(mu: Values, precision: Values) -> Gaussian:
    """Return the Gaussian of a mean and a precision."""
    one = Gaussian(mu, precision)
    return Gaussian({n: np.asarray(one.at(n) * x) for n, x in mu.items()}, precision)


def shape(theta0: Tree, covariance: str) -> Tree:
    """Return zeros in the shape of a precision."""
    return {ALL: np.zeros(1, np.float32)} if covariance == "identity" else zeros(theta0)


class FedEPClient(LocalMethod):
    """The tilted fit, and the site between rounds.

    Parameters
    ----------
    method : str
        "fedep", or "fedsep" without a site.
    covariance : str
        "identity", "laplace" or "swag".
    clients, clients_per_round : int
        N and K.
    prior : float
        Lambda of q_0, around theta0.
    scale : float
        c.
    samples : int
        Iterates in the mean, at equal distances, the last one of a turn among them.
    max_norm : float
        The most that the length of (eta, Lambda) of a delta may be.
    shrinkage : float
        What is added to the variance of iterates.
    """

    def __init__(
        self,
        method: str,
        covariance: str,
        clients: int,
        clients_per_round: int,
        prior: float,
        scale: float,
        samples: int,
        max_norm: float,
        shrinkage: float,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method={method} should be one of {METHODS}")
        within("(0, inf)", scale=scale, max_norm=max_norm, shrinkage=shrinkage)
        whole_from(1, clients=clients, clients_per_round=clients_per_round)
        least = 2 if covariance == "swag" else 1
        if type(samples) is not int or samples < least:
            raise ValueError(
                f"samples={samples} should be at least {least} with covariance={covariance}"
            )
        self.method, self.covariance, self.prior = method, covariance, float(prior)
        self.clients, self.damping = clients, 1 / clients_per_round
        self.scale, self.samples = float(scale), samples
        self.max_norm, self.shrinkage = float(max_norm), float(shrinkage)

    def start(self, theta0: Tree) -> Tree:
        """Return a flat site; nothing for FedSEP."""
        if self.method == "fedsep":
            return {}
        return joined(Gaussian(zeros(theta0), shape(theta0, self.covariance)))

    def like(self, part: str, theta0: Tree) -> Tree:
        """Return zeros; the precision of the prior for that of q, which is so at first."""
        if part == ETA:
            return zeros(theta0)
        return {n: np.full_like(x, self.prior) for n, x in shape(theta0, self.covariance).items()}

    def run(self, given: Assignment) -> Answer:
        """Return delta."""
        mu, precision = given.parts["model"], given.parts[PRECISION]
        q = around(mu, precision)
        site = parted(given.memory) if given.memory else None
        cavity = q.plus(site, -1) if site else q.plus(q, -1 / self.clients)
        rows = len(given.rows())
        path = Path(self.samples)
        trained = given.train(
            Hooks(
                starts=[path.begin],
                gradients=[path.square, pull(cavity, rows)],
                steps=[path.step],
            )
        )
        tilted = self.tilted(path, rows, q, cavity)
        delta = self.damped(tilted.plus(q, -1))
        eta, change = delta.tree()

        def remember(sent: Mapping[str, Tree]) -> Tree:
            """q_k <- q_k delta, by what the server decodes."""
            if site is None:
                return {}
            return joined(site.plus(Gaussian(sent[ETA], sent[PRECISION])))

        return Answer({ETA: eta, PRECISION: change}, trained.metrics, remember)

    def tilted(self, path: Path, rows: int, q: Gaussian, cavity: Gaussian) -> Gaussian:
        """Return the fit: the mean of the iterates, and Lambda_k + Lambda_c, kept from 0."""
        local = self.local_precision(path, rows, q)
        precision = {
            n: np.maximum(local[n] + cavity.precision[n], LEAST * x) for n, x in q.precision.items()
        }
        return around(path.mean(), precision)

    def local_precision(self, path: Path, rows: int, q: Gaussian) -> Values:
        """Return Lambda_k."""
        if self.covariance == "identity":
            return {ALL: np.full(1, self.scale * rows)}
        if self.covariance == "laplace":
            squares = path.mean_square()
            pooled = np.concatenate([x.ravel() for x in squares.values()])
            mean, most = pooled.mean(), 2 * pooled.std()
            return {
                n: self.scale * rows * np.clip(x, mean - most, mean + most)
                for n, x in squares.items()
            }
        return {n: self.scale / (x + self.shrinkage) for n, x in path.variance().items()}

    def damped(self, delta: Gaussian) -> Gaussian:
        """Return delta, no longer than max_norm, to the power 1/K."""
        short = shortened(delta, self.max_norm)
        return short.plus(short, self.damping - 1)


def shortened(delta: Gaussian, most: float) -> Gaussian:
    """Return a delta whose length, of eta and Lambda together, is at most ``most``."""
    length = np.sqrt(
        sum(float(np.sum(np.square(x, dtype=float))) for one in delta for x in one.values())
    )
    return delta if length <= most else delta.plus(delta, most / length - 1)


def room(precision: Values, change: Values, share: float) -> float:
    """Return how often ``change`` may be added until a precision has lost ``share`` of itself."""
    left = np.inf
    for name, x in change.items():
        falls = x < 0
        if falls.any():
            left = min(left, float((share * precision[name][falls] / -x[falls]).min()))
    return left


def pull(cavity: Gaussian, rows: int) -> GradientHook:
    """Return the hook that adds the cavity's gradient, Lambda_c theta - eta_c, over the rows."""
    held = {}
    for name, eta in cavity.eta.items():
        precision = np.broadcast_to(cavity.at(name), eta.shape)
        known = precision > 0
        both = (np.where(known, x, 0) / rows for x in (precision, eta))
        held[name] = tuple(torch.from_numpy(np.asarray(x, np.float32)) for x in both)

    def hook(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if p.grad is not None and name in held:
                precision, eta = (x.to(p.device) for x in held[name])
                p.grad.add_(precision * p.detach() - eta)

    return hook


def joined(site: Gaussian) -> Tree:
    """Return a site as one Tree, to be remembered."""
    parts = zip((ETA, PRECISION), site.tree(), strict=True)
    return {f"{part}/{n}": x for part, tree in parts for n, x in tree.items()}


def parted(memory: Tree) -> Gaussian:
    """Undo `joined`."""
    eta, precision = (
        {n.removeprefix(f"{part}/"): x for n, x in memory.items() if n.startswith(f"{part}/")}
        for part in (ETA, PRECISION)
    )
    return Gaussian(eta, precision)


class FedEP(FedAvg):
    """q times all deltas, by SGD on its natural parameters.

    Parameters
    ----------
    clients, clients_per_round : int
        N, all clients, sampled or not, and K.
    covariance : str
        See `FedEPClient`.
    prior : float
        Lambda of q_0, around theta0.
    max_norm : float
        That of the clients, to which the server holds them: ``ROUNDED`` times what a damped delta
        has at most, for what a codec adds. A longer one is scaled down, see `counted`.
    lr, momentum : float
        Of the server's SGD.
    """

    def __init__(
        self,
        clients: int,
        clients_per_round: int,
        covariance: str,
        prior: float,
        max_norm: float,
        lr: float = 1.0,
        momentum: float = 0.0,
        **arguments: object,
    ) -> None:
        super().__init__(weighted_by_key="one", **arguments)  # type: ignore[arg-type]
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance={covariance} should be one of {COVARIANCES}")
        within("[0, inf)", prior=prior)
        within("(0, inf)", lr=lr, max_norm=max_norm)
        within("[0, 1)", momentum=momentum)
        whole_from(1, clients=clients, clients_per_round=clients_per_round)
        self.clients, self.covariance, self.prior = clients, covariance, prior
        self.lr, self.momentum = lr, momentum
        self.clients_per_round, self.max_norm = clients_per_round, max_norm
        self.theta0: dict[str, np.ndarray] = {}
        self.eta: dict[str, np.ndarray] = {}
        self.precision: dict[str, np.ndarray] = {}
        self.velocity: list[dict[str, np.ndarray]] = []

    def check(self, cfg: DictConfig) -> None:
        """Check that both halves have the same factors; ConfigError if not."""
        check_clients(cfg, self.clients, "q is the product of their factors")
        check_local(cfg, CLIENT)
        check_shared(cfg, self, SHARED, "both ends know the factors")
        check_forgets(cfg, "its site")
        if is_example_level(cfg):
            raise ConfigError(
                "privacy=dp_sgd has no room for what strategy=fedep does with a client's rows: "
                "their number and gradients are in its precision; set privacy=none"
            )
        if cfg.federation.max_update_rms is not None:
            raise ConfigError(
                f"federation.max_update_rms={cfg.federation.max_update_rms} bounds changes of a "
                "model, and fedep sends natural parameters, which strategy.local.max_norm bounds: "
                "set federation.max_update_rms=null"
            )

    @property
    def q(self) -> Gaussian:
        """Return q, in float64."""
        return Gaussian(self.eta, self.precision)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send mu and Lambda."""
        if not self.theta0:
            self.theta0 = {n: a.numpy().astype(np.float64) for n, a in arrays.items()}
            like = shape(self.theta0, self.covariance)
            flat = {n: np.full(x.shape, float(self.prior)) for n, x in like.items()}
            self.eta, self.precision = map(dict, around(self.theta0, flat))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        precision = _record(self.precision)
        for message in messages:
            message.content[PRECISION] = precision
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of the new q."""
        replies = list(replies)
        precisions = [cast(ArrayRecord, reply.content.pop(PRECISION)) for reply in replies]
        etas = [reply.content.array_records[ETA] for reply in replies]
        _, metrics = super().aggregate_train(server_round, replies)
        deltas = [
            self.counted(Gaussian(_values(eta), _values(change)))
            for eta, change in zip(etas, precisions, strict=True)
        ]
        self.step([
            {n: np.sum([one[k][n] for one in deltas], axis=0) for n in like}
            for k, like in enumerate((self.eta, self.precision))
        ])  # fmt: skip
        return _record(self.q.mean(self.theta0)), metrics

    def counted(self, delta: Gaussian) -> Gaussian:
        """Return a client's delta as far as an honest one may go.

        A tilted precision is `LEAST` of q's at least, so that of q a damped delta takes a K-th of
        the rest at most. One that takes more is scaled down by itself: in their sum it would hold
        the steps of all others back.
        """
        short = shortened(delta, ROUNDED * self.max_norm / self.clients_per_round)
        share = (1 - LEAST) / self.clients_per_round
        factor = min(1.0, room(self.precision, short.precision, share))
        return short if factor == 1 else short.plus(short, factor - 1)

    def step(self, total: list[dict[str, np.ndarray]]) -> None:
        """Let SGD move eta and Lambda, no further than to `LEAST` of any precision.

        Where damped deltas of tilted factors are all that comes, that is never in the way: they
        lead to a mean of positive precisions.
        """
        if self.momentum and self.velocity:
            total = [
                {n: self.momentum * old[n] + x for n, x in new.items()}
                for old, new in zip(self.velocity, total, strict=True)
            ]
        self.velocity = total
        factor = min(self.lr, room(self.precision, total[1], 1 - LEAST))
        moved = self.q.plus(Gaussian(*total), factor)
        self.eta, self.precision = dict(moved.eta), dict(moved.precision)


def _values(record: ArrayRecord) -> Values:
    return {n: cast(Array, x).numpy().astype(np.float64) for n, x in record.items()}


def _record(values: Values) -> ArrayRecord:
    return ArrayRecord({n: Array(np.asarray(x, np.float32)) for n, x in values.items()})
