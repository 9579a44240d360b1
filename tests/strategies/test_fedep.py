"""FedEP: products of Gaussian factors, exactly on Gaussian clients and through the codecs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from fl_app.aggregation.inner import EVERYONE
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.training.hooks.path import Path as Way
from fl_app.training.local import Assignment, Trained
from fl_app.tree import scalars
from strategies.fedep import (
    ALL,
    LEAST,
    FedEP,
    FedEPClient,
    Gaussian,
    around,
    joined,
    parted,
    pull,
)
from tests.server.test_coded import Rounds
from tests.server.test_parts import check_goes_on, remembered
from tests.strategies.federation import Federation, Parameters
from tests.strategies.test_scallion import check_no_secure_sums

EPS = float(np.finfo(np.float32).eps)
N, PRIOR = 4, 0.5
THETA0 = {"w": np.ones((3, 2), np.float32), "one": np.zeros((), np.float32)}
LOCAL = {"prior": PRIOR, "scale": 1.0, "samples": 1, "max_norm": 1e9, "shrinkage": 1e-4}


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Exact(FedEPClient):
    """Fits the tilted objective of a client with the loss a/2 |theta - b|^2 exactly."""

    def __init__(self, problem: "Gaussians", **options) -> None:
        super().__init__(**options)
        self.problem = problem

    def run(self, given):
        self.client, self.tilt = given.client, None
        return super().run(given)

    def tilted(self, path, rows, q, cavity) -> Gaussian:
        a, b = self.problem.a[self.client], self.problem.b[self.client]
        if self.covariance == "identity":
            a = {ALL: np.full(1, self.problem.sphere)}
        return around(b, {n: x.astype(float) for n, x in a.items()}).plus(cavity)


class Gaussians(Federation):
    """Clients whose likelihoods are Gaussian, and the posterior of all."""

    def __init__(self, method="fedep", covariance="laplace", k=1, clients=N, lossy=None, **more):
        rng = np.random.default_rng(0)
        self.a = [{n: rng.uniform(0.5, 3, x.shape) for n, x in THETA0.items()} for _ in range(N)]
        self.b = [{n: rng.normal(0, 2, x.shape) for n, x in THETA0.items()} for _ in range(N)]
        self.sphere = 2.0
        options = {**LOCAL, **more}
        shared = {"covariance": covariance, "prior": options["prior"]}
        server = {key: options.pop(key) for key in ("lr", "momentum") if key in options}
        half = Exact(
            self, method=method, clients=clients, clients_per_round=k,
            **{**options, "covariance": covariance},
        )  # fmt: skip
        server |= {"clients_per_round": k, "max_norm": options["max_norm"]}
        strategy = FedEP(clients=clients, **shared, **server, **EVERYONE)
        extra = {"lossy": lossy} if lossy else {}
        super().__init__(strategy, half, lambda client, x: x, THETA0, clients, **extra)

    def client(self, client, number, parts, form, said):
        given = Assignment(
            parts, self.theta0, self.memory[client], said, form, client, number, seed=0,
            model=Parameters(self.theta0), rows=lambda: [1, 2],
            train=lambda hooks: Trained(self.theta0, {"num-examples": 1, "loss": 0.0}),
            decoded=lambda sent: sent,
        )  # fmt: skip
        answer = self.method.run(given)
        self.answers[client], self.given[client] = answer, given
        self.arrived[client] = {p: self.lossy(form, p, t) for p, t in answer.parts.items()}
        return answer

    def posterior(self, clients=range(N), prior=PRIOR):
        """Return eta and Lambda of the product of all likelihoods and the prior."""
        precision = {n: prior + sum(self.a[k][n] for k in clients) for n in THETA0}
        eta = {
            n: prior * x + sum(self.a[k][n] * self.b[k][n] for k in clients)
            for n, x in THETA0.items()
        }
        return eta, precision

    def product_of_sites(self):
        """Return eta and Lambda of the prior times what the clients remember."""
        q = around(THETA0, {n: np.full(x.shape, PRIOR) for n, x in THETA0.items()})
        for memory in self.memory.values():
            q = q.plus(parted(memory))
        return q


def close(found, expected, rounds: int) -> None:
    for n, x in expected.items():
        np.testing.assert_allclose(found[n], x, rtol=0, atol=40 * rounds * EPS)


def test_one_sweep_gives_the_posterior_exactly_and_the_next_one_leaves_it() -> None:
    here = Gaussians()
    for number in range(1, 2 * N + 1):
        here.round(number, [(number - 1) % N])
        if number >= N:
            eta, precision = here.posterior()
            close(here.strategy.eta, eta, number)
            close(here.strategy.precision, precision, number)
            close(here.model, {n: eta[n] / precision[n] for n in eta}, number)


def test_with_damping_and_whoever_takes_part_q_is_the_product_and_finds_the_posterior() -> None:
    here = Gaussians(k=2)
    for number in range(1, 60):
        rng = np.random.default_rng(number)
        clients = sorted(rng.choice(N, 2, replace=False).tolist())
        here.round(number, clients, lost=clients[:1] if number % 7 == 0 else ())
        q = here.product_of_sites()
        close(here.strategy.eta, q.eta, number)
        close(here.strategy.precision, q.precision, number)
    eta, precision = here.posterior()
    for n in eta:
        np.testing.assert_allclose(here.model[n], eta[n] / precision[n], rtol=0, atol=1e-3)


def test_q_is_the_product_of_the_sites_however_coarse_the_codec_is() -> None:
    def quarters(form, part, tree):
        return {n: np.asarray(np.round(x * 4) / 4, np.float32) for n, x in tree.items()}

    here = Gaussians(k=N, lossy=quarters)
    for number in range(1, 8):
        here.round(number)
        q = here.product_of_sites()
        close(here.strategy.eta, q.eta, number)
        close(here.strategy.precision, q.precision, number)


def test_one_client_with_a_flat_start_is_its_own_posterior_in_a_round() -> None:
    here = Gaussians(clients=1, prior=0.0)
    here.round(1)
    close(here.model, here.b[0], 1)
    close(here.strategy.precision, here.a[0], 1)


def test_of_equal_spheres_the_mean_is_the_mean_of_the_modes() -> None:
    here = Gaussians(covariance="identity", k=N, prior=0.0)
    here.round(1)
    for n, x in here.model.items():
        np.testing.assert_allclose(x, np.mean([b[n] for b in here.b], axis=0), atol=20 * EPS)


def test_scaling_all_losses_scales_precisions_and_leaves_the_mean() -> None:
    here, other = Gaussians(prior=0.0), Gaussians(prior=0.0)
    other.a = [{n: 8 * x for n, x in one.items()} for one in other.a]
    for number in range(1, 6):
        here.round(number, [number % N])
        other.round(number, [number % N])
    close(other.model, here.model, 6)
    close(other.strategy.precision, {n: 8 * x for n, x in here.strategy.precision.items()}, 48)


def test_a_client_is_held_to_max_norm_whatever_it_sends() -> None:
    """An honest delta is left as it is, and a hostile one has twice its length at most."""

    def loud(form, part, tree):
        more = 1e6 if [*here.given][-1] == 0 else 1  # the client whose turn it is
        return {n: np.asarray(more * x, np.float32) for n, x in tree.items()}

    honest = Gaussians(k=N, max_norm=2.0)
    honest.round(1, [1, 2, 3])
    here = Gaussians(k=N, max_norm=2.0, lossy=loud)
    here.round(1)
    differences = [
        here.strategy.q[k][n] - honest.strategy.q[k][n] for k in range(2) for n in THETA0
    ]
    length = np.sqrt(sum(float(np.sum(x**2)) for x in differences))
    np.testing.assert_allclose(length, 2 * 2.0 / N, rtol=1e-5)


def test_a_client_that_takes_precision_away_takes_its_own_share_alone() -> None:
    """It cannot hold the steps of the others back, however much it says that q has too much."""

    def less(form, part, tree):
        more = -1e3 if [*here.given][-1] == 0 else 1  # the client whose turn it is
        return {n: np.asarray(more * x, np.float32) for n, x in tree.items()}

    for covariance in ("identity", "laplace"):
        honest = Gaussians(covariance=covariance, k=N)
        honest.round(1, [1, 2, 3])
        here = Gaussians(covariance=covariance, k=N, lossy=less)
        here.round(1)
        taken = {n: honest.strategy.precision[n] - x for n, x in here.strategy.precision.items()}
        most = max(float(x.max()) for x in taken.values())
        np.testing.assert_allclose(most, (1 - LEAST) / N * PRIOR, rtol=1e-5)


def test_a_fit_that_is_q_sends_nothing() -> None:
    here = Gaussians()
    for number in range(1, N + 1):
        here.round(number, [number - 1])  # now q is the posterior
    for client in range(N):
        here.round(N + 1 + client, [client])
        for tree in here.answers[client].parts.values():
            assert max(float(np.abs(x).max()) for x in tree.values()) < 100 * EPS

    # And by its own fit: a client whose steps stay at mu, and whose site has its local precision.
    own, rows = 2.0 * 5, range(5)
    half = FedEPClient(
        **LOCAL | {"scale": 2.0}, method="fedep", covariance="identity", clients=N,
        clients_per_round=1,
    )  # fmt: skip

    def stays(hooks) -> Trained:
        model = Parameters(THETA0)
        for hook in hooks.starts:
            hook(model, 1)
        for hook in hooks.steps:
            hook(model, 0.1)
        return Trained(THETA0, {"num-examples": 5, "loss": 0.0})

    parts = {"model": THETA0, "precision": {ALL: np.full(1, PRIOR + own, np.float32)}}
    given = Assignment(
        parts, THETA0, joined(around(THETA0, {ALL: np.full(1, own)})), {}, "default", 0, 2, seed=0,
        model=Parameters(THETA0), rows=lambda: rows, train=stays, decoded=lambda sent: sent,
    )  # fmt: skip
    for tree in half.run(given).parts.values():
        assert max(float(np.abs(x).max()) for x in tree.values()) < 100 * EPS


def test_a_delta_is_no_longer_than_max_norm_and_damped() -> None:
    half = Gaussians(k=5, max_norm=2.0).method
    long = Gaussian({"w": np.full(9, 7.0)}, {"w": np.full(9, -1.0)})
    found = half.damped(long)
    length = np.sqrt(sum((x**2).sum() for tree in found for x in tree.values()))
    np.testing.assert_allclose(length, 2.0 / 5)
    np.testing.assert_allclose(found.eta["w"] / found.precision["w"], -7)


def test_precisions_stay_positive_whatever_clients_say() -> None:
    for momentum in (0.0, 0.9):
        here = Gaussians(momentum=momentum, lr=1.0)
        here.round(1)
        for sign in (-1, 1, -1, -1, -1):
            before = {n: x.copy() for n, x in here.strategy.precision.items()}
            change = [{n: np.full(x.shape, sign * 50.0) for n, x in THETA0.items()}] * 2
            here.strategy.step(change)
            for n, x in here.strategy.precision.items():
                assert (x >= LEAST * before[n] * (1 - 1e-9)).all()
                assert (x > 0).all()


def test_a_tilted_precision_stays_positive_where_the_cavity_is_negative() -> None:
    half = FedEPClient(
        **LOCAL | {"prior": 1.0, "scale": 1e-6}, method="fedep", covariance="laplace",
        clients=N, clients_per_round=1,
    )  # fmt: skip
    way, model = Way(1), Parameters(THETA0)
    way.begin(model, 1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    way.square(model)
    way.step(model, 0.1)
    q = around(THETA0, {n: np.ones(x.shape) for n, x in THETA0.items()})
    cavity = q.plus(around(THETA0, {n: np.full(x.shape, 3.0) for n, x in THETA0.items()}), -1)
    tilted = half.tilted(way, 2, q, cavity)
    assert all((x == LEAST).all() for x in tilted.precision.values())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    pull(cavity, 2)(model)
    assert not any(p.grad.any() for p in model.parameters())


def test_the_pull_is_the_gradient_of_the_cavity_over_the_rows() -> None:
    model, rng = Parameters(THETA0), np.random.default_rng(2)
    mu = {n: rng.normal(0, 1, x.shape) for n, x in THETA0.items()}
    precision = {n: rng.uniform(1, 2, x.shape) for n, x in THETA0.items()}
    loss = sum(
        (torch.from_numpy(precision[n]) * (p - torch.from_numpy(mu[n])) ** 2).sum() / 2
        for n, p in model.named_parameters()
    )
    (loss / 5).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    pull(around(mu, precision), 5)(model)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-5, atol=1e-6)


def test_the_local_precisions() -> None:
    """Laplace clips the mean square to mean +- 2 std; swag has the variance of the iterates."""
    model, rng = Parameters(THETA0), np.random.default_rng(1)
    way, seen, squares = Way(3), [], []
    way.begin(model, 9)
    for _ in range(9):
        for p in model.parameters():
            p.grad = torch.from_numpy(rng.normal(0, 1, p.shape)).float()
            p.data += p.grad
        way.square(model)
        squares.append({n: p.grad.numpy().astype(float) ** 2 for n, p in model.named_parameters()})
        way.step(model, 0.1)
        seen.append(model.tree)
    kept = [seen[2], seen[5], seen[8]]
    for n in THETA0:
        stacked = np.stack([x[n].astype(float) for x in kept])
        np.testing.assert_allclose(way.mean()[n], stacked.mean(0))
        np.testing.assert_allclose(way.variance()[n], stacked.var(0))
        np.testing.assert_allclose(way.mean_square()[n], np.mean([s[n] for s in squares], axis=0))
    pooled = np.concatenate([x.ravel() for x in way.mean_square().values()])
    least, most = (pooled.mean() + side * 2 * pooled.std() for side in (-1, 1))
    for covariance, expected in (
        ("laplace", {n: 6 * 2.0 * np.clip(x, least, most) for n, x in way.mean_square().items()}),
        ("swag", {n: 2.0 / (x + 1e-4) for n, x in way.variance().items()}),
        ("identity", {ALL: [12.0]}),
    ):
        options = {**LOCAL, "scale": 2.0, "samples": 3}
        half = FedEPClient(
            method="fedep", covariance=covariance, clients=N, clients_per_round=1, **options
        )
        q = around(THETA0, {n: np.ones(x.shape) for n, x in THETA0.items()})
        found = half.local_precision(way, 6, q)
        for n, x in expected.items():
            np.testing.assert_allclose(found[n], x)


def test_fedsep_keeps_nothing_and_leaves_out_its_share_of_q() -> None:
    here = Gaussians(method="fedsep", k=N)
    for number in range(1, 40):
        here.round(number)
        assert not any(here.memory.values())
    # The fixed point of q = mean of likelihood times q^(1 - 1/N) is the posterior without a prior.
    eta, precision = here.posterior(prior=0.0)
    for n in eta:
        np.testing.assert_allclose(here.model[n], eta[n] / precision[n], rtol=0, atol=1e-3)


@pytest.mark.parametrize("covariance", ["identity", "laplace"])
def test_parts_travel_by_value_and_a_resumed_run_goes_on(tmp_path: Path, covariance: str) -> None:
    words = f"experiment=fedep strategy.inner.covariance={covariance} codec=fp32"
    rounds = check_goes_on(tmp_path, words)
    d, rows = scalars(rounds.here.theta0), rounds.ledger.rows
    values = {row.scalars for row in rows if row.kind == "train" and row.payload_bytes}
    assert values == {d + 1 if covariance == "identity" else 2 * d}


def test_q_is_the_prior_and_what_the_nodes_remember(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "experiment=fedep codec=nf4")
    for number in (1, 2, 3):
        rounds.round(number)
    q, prior, theta0 = rounds.coded.inner.q, rounds.coded.inner.prior, rounds.here.theta0
    up = [row for row in rounds.ledger.rows if row.kind == "train" and row.direction == "up"]
    accepted = {row.partition: row.round for row in up}
    total = around(theta0, {ALL: np.full(1, prior)})
    for client, number in accepted.items():
        total = total.plus(parted(remembered(rounds, client, number)))
    for found, expected in zip(q, total, strict=True):
        size = max(float(np.abs(x).max()) for x in expected.values())
        for n, x in expected.items():
            np.testing.assert_allclose(found[n], x, rtol=0, atol=16 * EPS * size)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.clients=4", "strategy.inner.clients=4 should be"),
        ("strategy.inner.covariance=full", "covariance=full should be one of"),
        ("strategy.inner.prior=-1", r"prior=-1 should be in \[0, inf\)"),
        ("strategy.inner.lr=-1", r"lr=-1 should be in \(0, inf\)"),
        ("strategy.inner.momentum=2", r"momentum=2 should be in \[0, 1\)"),
        ("strategy.local.clients=9", "strategy.local.clients=9 should be strategy.inner.clients=3"),
        ("strategy.local.method=adf", "method=adf should be one of"),
        ("strategy.local.scale=0", r"scale=0 should be in \(0, inf\)"),
        ("strategy.local.samples=0", "samples=0 should be at least 1"),
        ("strategy.inner.covariance=swag", "samples=1 should be at least 2"),
        ("strategy.local.prior=3", "strategy.local.prior=3 should be strategy.inner.prior"),
        ("strategy.inner.max_norm=9", "strategy.local.max_norm=100.0 should be strategy.inner"),
        ("federation.max_update_rms=1.0", "set federation.max_update_rms=null"),
        ("codec=sign", "codec.up remembers what it lost, and so does this method"),
        ("privacy=dp_sgd", "set privacy=none"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 experiment=fedep"
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{run} {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("fedep")
