"""FedKSeed: seeded directions, probes, and the laws of A, on quadratics and on a decoder."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE
from fl_app.codecs.parts.groups import concatenate
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.training.loop import Hooks
from fl_app.training.zeroth_order import Point, direction, moved
from fl_app.tree import Tree, scalars
from strategies.fedkseed import (
    AMPLITUDES,
    CHANGES,
    SUMS,
    VALUES,
    FedKSeed,
    FedKSeedClient,
    model_of,
)
from tests.server.test_parts import check_goes_on
from tests.strategies.federation import Federation, Parameters
from tests.strategies.test_scallion import check_no_secure_sums

EPS = float(np.finfo(np.float32).eps)
N, K, MASTER, ETA, MU = 3, 24, 7, 0.01, 1e-3
THETA0 = {
    "w": np.random.default_rng(0).normal(0, 1, (4, 5)).astype(np.float32),
    "one": np.ones((), np.float32),
}
D = scalars(THETA0)


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Slopes(Federation):
    """Clients with |x - b_i|^2 / 2 whose local loop lets the solver do ``steps`` steps."""

    def __init__(self, method, strategy, steps: int, clients: int = N, broken=()) -> None:
        super().__init__(strategy, method, lambda client, x: x, THETA0, clients)
        rng = np.random.default_rng(3)
        self.b = [rng.normal(3, 0.5, D) for _ in range(clients)]
        self.steps, self.scale, self.broken = steps, [1.0] * clients, broken

    def loss(self, client: int, x: Tree) -> float:
        flat = concatenate(x).astype(float)
        return self.scale[client] * float(np.sum((flat - self.b[client]) ** 2)) / 2

    def trained(self, client, model, hooks: Hooks) -> Tree:
        for begin in hooks.starts:
            begin(model, self.steps)
        for k in range(self.steps):
            bad = k in self.broken
            loss = hooks.solver(
                model, lambda bad=bad: math.nan if bad else self.loss(client, model.tree)
            )
            assert (loss is None) == bad
        return model.tree


def fedkseed(steps: int = 5, clients: int = N, pro: bool = False, broken=(), **options) -> Slopes:
    options = {"seeds": K, "master": MASTER, "eta": ETA, "eps": MU, "clip": 1e3, **options}
    strategy = FedKSeed(options["seeds"], MASTER, pro, weighted_by_key="one", **EVERYONE)
    return Slopes(FedKSeedClient(**options), strategy, steps, clients, broken)


# ---- directions and probes -----------------------------------------------------------------


@given(sums=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_a_rebuilt_model_is_that_of_the_steps_in_any_order(sums: list[float], seed: int) -> None:
    w = concatenate(THETA0)
    order = np.random.default_rng(seed).permutation(len(sums)).tolist()
    z = [direction(MASTER, s, D).astype(float) for s in range(len(sums))]
    exact = w - sum(a * z[s] for s, a in enumerate(sums))
    size = np.abs(w) + sum(abs(a) * np.abs(z[s]) for s, a in enumerate(sums))
    for steps in (enumerate(sums), ((s, sums[s]) for s in order)):
        found = moved(w, steps, MASTER)
        assert (np.abs(found - exact) <= (len(sums) + 2) * EPS * size).all()
    assert (w == concatenate(THETA0)).all()


def test_a_direction_is_that_of_its_seed_and_no_other() -> None:
    one = direction(3, 5, 1000)
    torch.manual_seed(1)  # other generators have no part in it
    np.random.default_rng(0).random(9)
    assert (direction(3, 5, 1000) == one).all()
    assert one.dtype == np.float32
    for other in (direction(3, 6, 1000), direction(4, 5, 1000)):
        assert abs(float(np.corrcoef(one, other)[0, 1])) < 5 / math.sqrt(1000)
    # The bits of a version of numpy: another one's runs cannot be resumed or joined.
    assert direction(0, 0, 3).tolist() == PINNED


PINNED = [0.059911035001277924, 0.015559634193778038, -1.1644384860992432]


def test_a_probe_leaves_no_trace() -> None:
    model = Parameters(THETA0)
    point = Point(model, THETA0)
    for s in range(200):
        point.slope(lambda: 0.0, direction(MASTER, s, D), 0.3)
    assert all((model.tree[n] == x).all() for n, x in THETA0.items())


def test_of_a_linear_loss_the_slope_is_exact_and_its_mean_the_gradient() -> None:
    model, rng = Parameters(THETA0), np.random.default_rng(1)
    g, point = rng.normal(0, 1, D), Point(model, THETA0)
    total, count, eps = np.zeros(D), 1500, 0.25
    for s in range(count):
        z = direction(MASTER, s, D)
        rho, _ = point.slope(lambda: float(concatenate(model.tree) @ g), z, eps)
        size = float(np.abs(g) @ (np.abs(point.w) + eps * np.abs(z)))
        assert abs(rho - float(g @ z)) <= 4 * EPS * size / eps
        total += rho * z
    # Each entry of rho z has a variance of |g|^2 + g_j^2.
    sigma = np.sqrt((g @ g + g**2) / count)
    assert (np.abs(total / count - g) < 5 * sigma).all()


# ---- both halves ---------------------------------------------------------------------------


def test_one_clients_model_is_the_servers() -> None:
    here = fedkseed(clients=1)
    for number in range(1, 5):
        after = here.round(number)
        own = here.given[0].model.tree
        bound = (K + 5 * number) * EPS * 10
        for n, x in after.items():
            np.testing.assert_allclose(x, own[n], rtol=0, atol=bound)
    assert np.abs(concatenate(after) - concatenate(THETA0)).max() > 100 * bound


def test_what_is_sent_adds_up_to_a_whoever_took_part() -> None:
    here = fedkseed()
    total, before = np.zeros(K), np.zeros(K, np.float32)
    for number, clients in enumerate(([0, 1], [2], [0, 1, 2], [1, 2]), start=1):
        here.round(number, clients, lost=[1] if number == 4 else ())
        sent = [here.answers[k].parts[CHANGES][VALUES] for k in clients if (number, k) != (4, 1)]
        total += np.mean(sent, axis=0, dtype=float)
        assert all(np.count_nonzero(one) <= here.steps for one in sent)
        np.testing.assert_allclose(here.strategy.sums, total, rtol=0, atol=number * EPS)
        assert (here.given[clients[0]].parts[SUMS][VALUES] == before).all()
        before = here.strategy.sums.astype(np.float32)
        again = model_of(THETA0, before, MASTER)
        assert all((here.model[n] == x).all() for n, x in again.items())


def test_a_change_of_eta_leaves_the_past_as_it_is() -> None:
    here = fedkseed(clients=1)
    here.round(1)
    before = concatenate(here.model)
    here.method.eta = ETA / 4
    here.round(2)
    start = here.given[0].parts[SUMS][VALUES]
    assert (concatenate(model_of(THETA0, start, MASTER)) == before).all()
    np.testing.assert_allclose(
        concatenate(here.model), concatenate(here.given[0].model.tree), rtol=0, atol=K * EPS * 10
    )


def test_it_finds_the_optimum_of_all_clients() -> None:
    here = fedkseed(steps=20, eta=0.02, seeds=200)
    best = np.mean(here.b, axis=0)
    first = np.linalg.norm(concatenate(here.model) - best)
    for number in range(1, 25):
        here.round(number)
    assert np.linalg.norm(concatenate(here.model) - best) < 0.15 * first


def test_a_step_without_a_loss_is_no_step() -> None:
    here = fedkseed(steps=3, broken=(1,), seeds=1000)
    here.round(1, [0])
    assert np.count_nonzero(here.answers[0].parts[CHANGES][VALUES]) == 2


def test_a_step_of_two_losses_far_apart_is_no_step() -> None:
    counts = {}
    for most in (1e-9, 0.02, 1e9):
        here = fedkseed(steps=20, seeds=50_000, max_difference=most)
        here.round(1, [0])
        sent = here.answers[0].parts[CHANGES][VALUES]
        counts[most] = np.count_nonzero(sent)
        assert np.abs(sent).max() <= ETA * most / (2 * MU)
    assert counts[1e-9] == 0 < counts[0.02] < counts[1e9] == 20


def test_parts_have_k_values_whatever_the_model() -> None:
    client = fedkseed().method
    for tree in (THETA0, {"x": np.zeros((100, 100), np.float32)}):
        assert {n: x.shape for n, x in client.like(CHANGES, tree).items()} == {VALUES: (K,)}


# ---- Pro -----------------------------------------------------------------------------------


def test_probabilities_are_uniform_at_first_and_never_more_than_e_apart() -> None:
    here = fedkseed(steps=4, pro=True)
    assert (here.strategy.probabilities == 1 / K).all()
    history: list[list[float]] = [[0.0] for _ in range(K)]
    for number in range(1, 9):
        here.round(number, [number % N, (number + 1) % N])
        for answer in here.answers.values():
            for s, amp in enumerate(answer.parts[AMPLITUDES][VALUES].tolist()):
                history[s] += [amp] if amp else []
        p = here.strategy.probabilities
        assert abs(p.sum() - 1) < 1e-12
        assert p.max() / p.min() <= math.e * (1 + 1e-12)
        amp = np.array([np.mean(one) for one in history])
        scaled = np.exp((amp - amp.min()) / (amp.max() - amp.min()))
        np.testing.assert_allclose(p, scaled / scaled.sum(), rtol=1e-6)


def test_the_history_has_slopes_no_larger_than_c() -> None:
    here = fedkseed(steps=30, pro=True, clip=0.5, clients=1)
    here.round(1)
    amplitudes = here.answers[0].parts[AMPLITUDES][VALUES]
    assert amplitudes.max() == np.float32(ETA * 0.5)


@pytest.mark.parametrize("p", [[0.0] * K, [1.0] + [0.1] * (K - 1), [-1.0] * K])
def test_probabilities_that_are_none_of_the_methods_are_refused(monkeypatch, p) -> None:
    monkeypatch.setattr(FedKSeed, "probabilities", np.array(p))
    with pytest.raises(FaultError) as found:
        fedkseed(pro=True).round(1)
    assert found.value.said.startswith("other_value: the server says probabilities=")


def test_seeds_are_drawn_by_their_probabilities() -> None:
    here = fedkseed(steps=400, pro=True, clients=1)
    here.strategy.amplitudes = np.arange(K) * 1.0
    here.round(1)
    parts, strategy = here.given[0].parts, here.strategy
    assert parts["probabilities"][VALUES].shape == (K,)
    drawn = here.answers[0].parts[AMPLITUDES][VALUES] > 0
    assert drawn[K // 2 :].sum() >= 1
    assert strategy.counts.sum() == K + drawn.sum()


# ---- through the codecs --------------------------------------------------------------------


@pytest.mark.parametrize("pro", [False, True])
def test_messages_do_not_grow_with_the_model_and_runs_go_on(tmp_path: Path, pro: bool) -> None:
    found = {}
    for r in (2, 4):
        words = (
            f"experiment=fedkseed adapter.r={r} strategy.inner.seeds=64 strategy.inner.pro={pro}"
        )
        (folder := tmp_path / f"{r}").mkdir()
        rounds = check_goes_on(folder, words)
        rows = [row for row in rounds.ledger.rows if row.kind == "train" and row.round == 2]
        down = {row.payload_bytes for row in rows if row.direction == "down"}
        assert down == {4 * 64 * (1 + pro)}
        up = [row for row in rows if row.direction == "up"]
        assert all(0 < row.payload_bytes <= (1 + pro) * (2 * 4 + 64 // 8 + 1) for row in up)
        found[r] = scalars(rounds.here.theta0), [row.scalars for row in rows]
        assert any((rounds.tree[n] != x).any() for n, x in rounds.here.theta0.items())
    assert found[4][0] > found[2][0]
    assert found[4][1] == found[2][1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.seeds=0", "seeds=0 should be a whole number from 1 to 65536"),
        ("strategy.inner.seeds=70000", "seeds=70000 should be a whole number from 1 to 65536"),
        ("strategy.inner.master=-1", "master=-1 should be a whole number from 0"),
        ("strategy.local.max_difference=0", r"max_difference=0 should be in \(0, inf\)"),
        ("adapter=sign_mask", "a probe changes none, and its slope is 0: set adapter=lora"),
        ("strategy.inner.pro=3", "pro=3 should be true or false"),
        ("strategy.local.eta=0", r"eta=0 should be in \(0, inf\)"),
        ("strategy.local.eps=-1", r"eps=-1 should be in \(0, inf\)"),
        ("strategy.local.seeds=8", "strategy.local.seeds=8 should be strategy.inner.seeds=1024"),
        ("codec=nf4", "codec.down should be {id: fp32} where both ends rebuild the model"),
        ("codec.up={id:error_feedback,inner:{id:nf4}}", "remembers values by their place"),
        ("privacy=dp_sgd", "this method has none: set privacy=none"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 strategy=fedkseed codec=fp32"
    with pytest.raises(ConfigError, match=says.replace("{", r"\{")):
        check(compose(f"{run} {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("fedkseed")
