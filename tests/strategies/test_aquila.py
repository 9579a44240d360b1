"""AQUILA: innovations in as few bits as they allow, and clients that stay silent."""

from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.training.local import LocalMethod
from fl_app.training.loop import NO_HOOKS
from strategies.aquila import INNOVATION, Aquila, AquilaClient
from tests.server.test_coded import Rounds
from tests.server.test_parts import check_goes_on, remembered
from tests.strategies.test_scaffold import (
    EPS,
    Federation,
    N,
    Quadratics,
    identity,  # noqa: F401
)
from tests.strategies.test_scallion import check_no_secure_sums, coded

ADAPTIVE = {"id": "uniform", "adaptive": True, "centroid": False, "scope": "tensor"}
ALL = [*range(N)]


class Devices(Federation):
    """Rounds of AQUILA that note who spoke in each, and the models."""

    def __init__(self, problem: Quadratics, beta: float, lossy=None, alpha: float = 1.0) -> None:
        strategy = Aquila(clients=N, alpha=alpha, **EVERYONE)
        super().__init__(strategy, AquilaClient(alpha, beta), problem, lossy or coded(ADAPTIVE))
        self.spoke: list[list[int]] = []
        self.path = [self.model]

    def round(self, number: int, lost: frozenset[int] = frozenset()) -> None:
        super().round(number, ALL, lost)
        self.spoke.append([k for k in ALL if self.answers[k].parts])
        self.path.append(self.model)


def step_and_bits(x: np.ndarray) -> tuple[float, int]:
    """Return the step and b by the equations of the docstring, R the largest magnitude."""
    peak = float(np.abs(x).max())
    length = float(np.linalg.norm(x.astype(np.float64)))
    bits = max(2, int(np.ceil(np.log2(peak * np.sqrt(x.size) / length + 1))))
    return 2 * peak / (2**bits - 1), bits


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(-8, 8), st.booleans())
def test_a_code_fits_its_bits_whatever_the_scale(
    seed: int, size: int, power: int, heavy: bool
) -> None:
    rng = np.random.default_rng(seed)
    u = (rng.standard_t(2, size) if heavy else rng.normal(size=size)).astype(np.float32)
    for x in (u, u * np.float32(2.0**power)):
        step, bits = step_and_bits(x)
        dq = coded(ADAPTIVE)(x)
        levels = np.rint(dq / step)
        np.testing.assert_allclose(dq, levels * step, rtol=4 * EPS, atol=0)
        assert np.abs(levels).max() <= 2 ** (bits - 1) - 1
        assert np.abs(x - dq).max() <= np.abs(x).max() / (2**bits - 1) * (1 + 4 * EPS)
    assert step_and_bits(u)[1] == bits


def test_all_speak_in_the_first_round_and_with_beta_0_in_every_one() -> None:
    here = Devices(Quadratics(seed=0, steps=3, lr=0.1, size=8), beta=0.0)
    for number in range(1, 20):
        here.round(number)
    assert here.spoke == [ALL] * 19


def test_with_a_huge_beta_only_the_first_round_is_heard() -> None:
    here = Devices(Quadratics(seed=0, steps=3, lr=0.1, size=8), beta=1e12)
    for number in range(1, 6):
        here.round(number)
    assert here.spoke == [ALL, [], [], [], []]
    first, *rest = np.diff(here.path, axis=0)  # what was heard counts on
    for step in rest:
        np.testing.assert_allclose(step, first, rtol=0, atol=20 * EPS * np.abs(here.path).max())


def test_who_is_silent_is_who_the_criterion_says() -> None:
    """|dq|^2 + |eps|^2 <= beta / alpha^2 |theta^k - theta^(k-1)|^2, at a rate that is not 1."""
    problem, beta, alpha, seen = Quadratics(seed=6, steps=3, lr=0.1, size=8), 0.5, 0.5, set()
    here = Devices(problem, beta, alpha=alpha)
    for number in range(1, 40):
        theta, last = here.path[-1], here.path[max(0, len(here.path) - 2)]
        q = {k: here.memory[k]["q/x"] for k in ALL}
        here.round(number)
        for k in ALL:
            u = theta - problem.loop(k, {"x": theta})(hooks=NO_HOOKS).model["x"] - q[k]
            dq = coded(ADAPTIVE)(u)
            skipped = float(np.sum(np.square(dq, dtype=float) + np.square(u - dq, dtype=float)))
            moved = float(np.sum(np.square(theta - last, dtype=float)))
            assert (k in here.spoke[-1]) == (skipped > beta / alpha**2 * moved)
            seen.add(
                (k in here.spoke[-1], skipped > beta * moved, np.sum(dq**2) > 4 * beta * moved)
            )
    assert (False, True, False) in seen  # the rate counts
    assert (True, True, False) in seen  # and so does the error


def test_without_loss_it_is_gradient_descent() -> None:
    problem = Quadratics(seed=1, steps=1, lr=0.1)
    here = Devices(problem, beta=0.0, lossy=lambda x: x, alpha=1.5)
    x = np.zeros(3)
    for number in range(1, 10):
        here.round(number)
        x = x - 1.5 * problem.lr * (problem.a * (x - problem.b)).mean(0)
        bound = 10 * number * EPS * np.abs(problem.b).max()
        np.testing.assert_allclose(here.model, x, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("beta", "rounds", "least", "most"), [(0, 20, 1, 1), (0.25, 100, 0.2, 0.6)]
)
def test_it_finds_the_fixed_point_of_fedavg_and_silence_costs_nothing(
    beta: float, rounds: int, least: float, most: float
) -> None:
    """Of one local step that is the optimum; innovations, quantized, shrink to nothing."""
    problem = Quadratics(seed=2, steps=1, lr=0.3, size=8)
    here = Devices(problem, beta)
    for number in range(1, 120):
        here.round(number)
    scale = float(np.abs(problem.b).max())
    assert np.abs(here.model - problem.best).max() < 20 * EPS * scale
    # Without a beta they speak until there is nothing left to say.
    assert least <= sum(map(len, here.spoke[:rounds])) / (N * rounds) <= most


def test_replayed_from_the_innovations_the_server_knows_every_q_bit_for_bit() -> None:
    """In 50 rounds, of which every seventh loses a message: neither end then counts it."""
    here = Devices(Quadratics(seed=3, steps=3, lr=0.1, size=8), beta=0.25)
    known = {k: np.zeros(8, np.float32) for k in ALL}
    for number in range(1, 51):
        lost = frozenset({number % N} if number % 7 == 0 else ())
        here.round(number, lost)
        for k in {*here.spoke[-1]} - lost:
            known[k] = known[k] + here.lossy(here.answers[k].parts[INNOVATION]["x"])
        for k in ALL:
            assert np.array_equal(known[k], here.memory[k]["q/x"])
        total = np.sum([*known.values()], axis=0, dtype=float)
        bound = number * N * EPS * np.abs([*known.values()]).sum(0)
        assert (np.abs(here.strategy.q_sum["x"] - total) <= bound).all()
    assert 0 < sum(map(len, here.spoke)) < 50 * N


def test_the_innovation_of_a_gradient_that_stays_shrinks_to_a_third_with_every_message() -> None:
    quantize, u = coded(ADAPTIVE), np.random.default_rng(4).normal(size=4000).astype(np.float32)
    for _ in range(6):
        left = u - quantize(u)
        assert np.linalg.norm(left) < 0.45 * np.linalg.norm(u)
        u = left


def test_without_loss_and_silence_it_is_fedavg() -> None:
    problem = Quadratics(seed=5, steps=4, lr=0.1)
    ours = Devices(problem, beta=0.0, lossy=lambda x: x)
    plain = Federation(FedAvg(weighted_by_key="one", **EVERYONE), LocalMethod(), problem)
    for number in range(1, 6):
        ours.round(number)
        plain.round(number, ALL)
    np.testing.assert_allclose(
        ours.model, plain.model, rtol=0, atol=20 * EPS * abs(problem.b).max()
    )


def test_through_codecs_silence_is_an_empty_reply_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    rounds = check_goes_on(
        tmp_path,
        "experiment=aquila federation.clients=3 clients_per_round=3 optimizer.lr=3e-3 "
        "strategy.local.beta=3",
    )
    up = [row for row in rounds.ledger.rows if row.kind == "train" and row.direction == "up"]
    spoke = [row for row in up if row.payload_bytes]
    silent = [row for row in up if not row.payload_bytes]
    assert {row.partition for row in spoke if row.round == 1} == {0, 1, 2}
    assert silent
    assert all(row.codec.startswith(f"{INNOVATION}:") for row in spoke)
    assert {row.codec for row in silent} == {"none"}
    assert max(row.message_bytes for row in silent) < 450
    assert all(row.payload_bytes < row.scalars / 2 for row in spoke)  # less than 4 bits a value
    kept = [remembered(rounds, client, 3) for client in range(3)]
    for name, total in rounds.coded.inner.q_sum.items():
        q = np.array([one[f"q/{name}"] for one in kept], np.float64)
        bound = 16 * EPS * np.abs(q).sum(0).max(initial=0)
        np.testing.assert_allclose(total, q.sum(0), rtol=0, atol=bound)


def test_where_all_are_silent_what_is_known_of_them_moves_the_model(tmp_path: Path) -> None:
    words = "experiment=aquila federation.clients=3 clients_per_round=3 strategy.local.beta=1e12"
    rounds = Rounds(tmp_path, words)
    trees = [rounds.tree, rounds.round(1)[0], rounds.round(2)[0]]
    assert {r.codec for r in rounds.ledger.rows if (r.round, r.direction) == (2, "up")} == {"none"}
    moved = 0.0
    for name, x in trees[2].items():
        bound = 8 * EPS * max(1.0, float(np.abs(x).max(initial=0)))
        first = trees[1][name] - trees[0][name]
        np.testing.assert_allclose(x - trees[1][name], first, rtol=0, atol=bound)
        moved = max(moved, float(np.abs(first).max(initial=0)))
    assert moved > 1e-4


def test_the_codec_of_the_experiment_is_the_one_of_these_laws() -> None:
    links = compose("experiment=aquila").codec.up.inner.links
    assert from_spec({**links[1]}).spec == from_spec(ADAPTIVE).spec


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("clients_per_round=2", "clients choose themselves whether to send"),
        ("strategy.inner.clients=4", "strategy.inner.clients=4 should be"),
        ("strategy.local.beta=-1", "beta=-1 should be in"),
        ("strategy.local.alpha=2", "strategy.local.alpha=2 should be strategy.inner.alpha=1"),
        ("federation.sampling=nodes", "AquilaClient remembers something of each client"),
        ("codec=sign", "codec.up remembers what it lost, and so does this method, in q_m"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=3 strategy=aquila {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("aquila")
