"""FLASC: what is chosen, the server's optimizer, and both halves on quadratics and on LoRA."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.aggregation.inner import EVERYONE, inner_strategy
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.tree import scalars
from fl_app.wire.records import to_tree
from strategies.flasc import CHANGE, TIER, Densities, Flasc, FlascClient, chosen
from tests.server.test_coded import Rounds, same
from tests.strategies.federation import Federation, Quadratics

EPS = float(np.finfo(np.float32).eps)
N = 3
A, B = "lora_A", "lora_B"
RNG = np.random.default_rng(0)
THETA0 = {
    A: RNG.normal(0, 1, (4, 10)).astype(np.float32),
    B: np.zeros((10, 4), np.float32),
    "head": RNG.normal(0, 0.1, 20).astype(np.float32),
}
D = scalars(THETA0)


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def flasc(down: float, up: float, turn=None, clients: int = N, **options) -> Federation:
    shared = {key: options.pop(key) for key in ("gamma", "every", "tiers", "dense_heads")
              if key in options}  # fmt: skip
    strategy = Flasc(down, **shared, **options, **EVERYONE)
    method = FlascClient(down, up, **shared)
    return Federation(strategy, method, turn or Quadratics(THETA0, clients), THETA0, clients)


def count(tree) -> int:
    return sum(int(np.count_nonzero(x)) for x in tree.values())


# ---- the choice ----------------------------------------------------------------------------


@given(
    x=hnp.arrays(np.float32, st.integers(2, 40), elements=st.sampled_from([0, 1, -1, 2, -3, 0.5])),
    cut=st.integers(1, 39),
    density=st.floats(0.01, 1),
)
@settings(max_examples=100, deadline=None)
def test_the_largest_of_all_tensors_stay_and_of_equal_ones_the_first(x, cut, density):
    tree = {"a": x[: cut % x.size], "b": x[cut % x.size :]}
    k = max(1, math.floor(density * x.size))
    kept = sorted(range(x.size), key=lambda i: (-abs(x[i]), i))[:k]
    expected = np.where(np.isin(np.arange(x.size), kept), x, 0)
    found = chosen(tree, density, dense_heads=False)
    assert np.concatenate([found["a"], found["b"]]).tolist() == expected.tolist()
    assert count(found) <= k
    assert same(chosen(found, density, dense_heads=False), found)


def test_dense_heads_are_whole_and_no_part_of_the_ranking():
    found = chosen(THETA0, 1 / 8, dense_heads=True)
    assert same({"head": found["head"]}, {"head": THETA0["head"]})
    assert np.count_nonzero(found[A]) == 80 // 8


def test_b_is_chosen_only_after_all_of_a():
    here = flasc(40 / D, 1.0, lambda client, x: x)
    here.round(1)
    start = here.given[0].model.tree
    assert not start[B].any()
    assert count(start) == 40


def test_densities_fall_by_rounds_and_by_tiers():
    of = Densities(0.5, 0.5, every=2, tiers=3).of
    assert [of(t) for t in range(1, 6)] == [0.5, 0.5, 0.25, 0.25, 0.125]
    assert [of(1, i) for i in range(3)] == [0.5, 0.125, 0.03125]


# ---- both halves ---------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_at_density_one_it_is_adamw_on_the_mean_change(decay: float) -> None:
    here = flasc(1.0, 1.0, eta=0.05, weight_decay=decay)
    p = {n: torch.nn.Parameter(torch.from_numpy(x.astype(float))) for n, x in THETA0.items()}
    optimizer = torch.optim.AdamW(p.values(), lr=0.05, weight_decay=decay)
    for number in range(1, 7):
        x = here.model
        for n, g in here.turn.mean_gradient(x).items():
            p[n].grad = torch.from_numpy(g)
        optimizer.step()
        here.round(number)
        for n, expected in p.items():
            # A change is the difference of two rounded models, and Adam divides by its size.
            np.testing.assert_allclose(here.model[n], expected.detach(), rtol=0, atol=2e-5)


def test_at_density_one_with_sgd_it_is_averaging() -> None:
    here = flasc(1.0, 1.0, optimizer="sgd", eta=1.0)
    for number in range(1, 5):
        x = here.model
        here.round(number)
        for n in x:
            models = [here.turn(k, x)[n] for k in range(N)]
            np.testing.assert_allclose(here.model[n], np.mean(models, axis=0), atol=10 * EPS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_everyone_starts_from_the_same_largest_values_and_sends_no_more(optimizer: str) -> None:
    here = flasc(0.25, 0.1, optimizer=optimizer, eta=0.1)
    for number in range(1, 5):
        p = here.strategy.p or THETA0
        here.round(number, clients=[0, 1] if number % 2 else None)
        p0 = chosen({n: np.asarray(x, np.float32) for n, x in p.items()}, 0.25, False)
        for k, answer in here.answers.items():
            assert same(here.given[k].model.tree, p0)
            trained = here.turn(k, p0)
            change = {n: p0[n] - trained[n] for n in p0}
            assert same(answer.parts[CHANGE], chosen(change, 0.1, False))
            assert count(answer.parts[CHANGE]) <= D // 10
        # What is scored is what a client would get.
        assert count(here.model) <= D // 4
        now = {n: x.astype(np.float32) for n, x in here.strategy.p.items()}
        assert same(here.model, chosen(now, 0.25, False))


def test_a_client_that_learned_nothing_sends_zero_and_changes_nothing() -> None:
    here = flasc(0.25, 0.5, lambda client, x: x, optimizer="sgd", eta=1.0)
    for number in (1, 2):
        here.round(number)
        assert count(here.arrived[0][CHANGE]) == 0
        assert all((here.strategy.p[n] == x).all() for n, x in THETA0.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_no_client_touched_moves_only_by_what_the_optimizer_remembers(optimizer) -> None:
    here = flasc(0.25, 0.1, optimizer=optimizer, eta=0.1)
    moved = {n: np.zeros(x.shape, bool) for n, x in THETA0.items()}
    for number in range(1, 6):
        before = {n: np.array(x, float) for n, x in (here.strategy.p or THETA0).items()}
        here.round(number)
        for n, x in before.items():
            touched = np.any([a[CHANGE][n] != 0 for a in here.arrived.values()], axis=0)
            stays = ~touched if optimizer == "sgd" else ~(touched | moved[n])
            assert (here.strategy.p[n][stays] == x[stays]).all()
            moved[n] |= touched


def test_tiers_get_and_send_a_fourth_each_and_are_measured_from_their_own_start() -> None:
    here = flasc(0.8, 0.4, clients=4, tiers=2, optimizer="sgd", eta=1.0, gamma=0.5, every=2)
    for number in range(1, 5):
        here.round(number)
        for k in range(4):
            scale = 0.5 ** ((number - 1) // 2) / 4 ** (k % 2)
            start = here.given[k].model.tree
            nonzero = D if number > 1 else D - THETA0[B].size
            assert count(start) == min(nonzero, math.floor(0.8 * scale * D))
            assert count(here.arrived[k][CHANGE]) == math.floor(0.4 * scale * D)
            assert here.given[k].config == ({TIER: 1} if k % 2 else {})
            if number > 1:  # before, the model goes down as it is known
                assert count(here.given[k].parts["model"]) == count(start)


def test_a_tier_that_the_run_does_not_have_is_refused() -> None:
    here = flasc(0.5, 0.5)
    with pytest.raises(FaultError, match="tier"):
        here.client(0, 1, {"model": THETA0}, "default", {TIER: 1})


# ---- on LoRA, through the codecs -----------------------------------------------------------


def test_through_the_codecs_all_trains_and_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path):
    whole = Rounds(tmp_path, "experiment=flasc strategy.local.density_up=0.1")
    here, d = whole.here, scalars(whole.here.theta0)
    whole.round(1)
    p = whole.coded.inner.p
    p0 = chosen(here.theta0, 0.25, False)
    assert any(((p0[n] == 0) & (p[n] != x)).any() for n, x in here.theta0.items())
    whole.round(2)
    state, arrays = whole.coded.state(whole.arrays), whole.arrays
    cut = Coded(inner_strategy(here.cfg), here, whole.ledger)
    cut.restore(state, arrays)
    expected = whole.round(3)[0]
    messages = cut.configure_train(3, arrays, ConfigRecord(), whole.grid)
    after, _ = cut.aggregate_train(3, whole.grid.send_and_receive(messages))
    assert same(to_tree(after, like=here.theta0), expected)
    assert count(expected) <= d // 4
    rows = [row for row in whole.ledger.rows if row.kind == "train"]
    for row in rows:
        k = d // 4 if row.direction == "down" else d // 10
        if (row.round, row.direction) == (1, "down"):
            assert row.payload_bytes == 0  # theta0 is known
        else:
            values, positions = 4 * k, math.ceil(d / 8)
            assert 0 < row.payload_bytes <= values + positions + 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.local.density_down=0.5", "strategy.local.density_down=0.5 should be strategy"),
        ("strategy.inner.density_down=0", "density=0 should be in"),
        ("strategy.local.density_up=2", "density=2 should be in"),
        ("strategy.inner.gamma=1.5", "gamma=1.5 should be in"),
        ("strategy.inner.tiers=0", "tiers=0 should be a whole number"),
        ("strategy.inner.optimizer=lion", "optimizer=lion should be adamw or sgd"),
        (
            "strategy.inner.tiers=2 federation.sampling=nodes",
            "a tier is of a client, which",
        ),
        ("codec=nf4", "codec.down should be"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
        (
            "strategy.secure_aggregation.threshold=0.7 clients_per_round=3",
            "secure|secure_aggregation",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(
            compose(f"federation.clients=3 clients_per_round=1 strategy=flasc codec=fp32 {words}")
        )
