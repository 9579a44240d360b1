"""Epsilon: against Opacus, against the exact Gaussian, monotone; the budget of a configuration."""

import itertools
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from opacus.accountants import PRVAccountant

from fl_app.aggregation.sampling import SAMPLERS
from fl_app.config import compose
from fl_app.privacy import accounting, budget
from tests import small

DELTA = 1e-3
DP = f"{small.DATA} privacy=dp_sgd"
CLIENT = f"{small.DATA} strategy=fedavg_dp_server"


def configured(overrides: str, **values):
    """The configuration with other values: composing takes longer than a test's example."""
    return OmegaConf.merge(compose(overrides), OmegaConf.from_dotlist(
        [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    ))  # fmt: skip


def gaussian_delta(epsilon: float, noise: float, steps: int) -> float:
    """Delta of so many Gaussian releases (Balle & Wang 2018, https://arxiv.org/abs/1805.06530,
    theorem 8): they are one release with noise / sqrt(steps).
    """
    mu = math.sqrt(steps) / noise

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu)


def test_it_is_what_opacus_counts_step_by_step() -> None:
    accountant = PRVAccountant()
    for _ in range(30):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    assert accounting.epsilon(1.1, 0.05, 30, DELTA) == accountant.get_epsilon(DELTA)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 20), (2.0, 3), (30.0, 400)])
def test_without_sampling_it_is_the_exact_gaussian_from_above(noise: float, steps: int) -> None:
    epsilon = accounting.epsilon(noise, 1.0, steps, DELTA)
    assert gaussian_delta(epsilon, noise, steps) <= DELTA
    assert gaussian_delta(epsilon - 0.05, noise, steps) > DELTA


@settings(max_examples=3)
@given(
    st.floats(0.7, 5),
    st.floats(0.01, 1),
    st.integers(1, 200),
    st.floats(1e-6, 1e-2),
)
def test_it_grows_with_steps_and_sampling_and_falls_with_noise_and_delta(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    slack = 0.02  # the accountant's own precision, on either side
    epsilon = accounting.epsilon(noise, rate, steps, delta)
    assert accounting.epsilon(noise, rate, 2 * steps, delta) >= epsilon - slack
    assert accounting.epsilon(noise, min(1.0, 1.5 * rate), steps, delta) >= epsilon - slack
    assert accounting.epsilon(1.3 * noise, rate, steps, delta) <= epsilon + slack
    assert accounting.epsilon(noise, rate, steps, min(0.1, 3 * delta)) <= epsilon + slack


def test_no_steps_cost_nothing_and_hardly_any_noise_is_no_privacy() -> None:
    assert accounting.epsilon(1.0, 0.1, 0, DELTA) == 0
    assert 10_000 < accounting.epsilon(0.1, 1.0, 1000, DELTA) < math.inf


def test_an_epsilon_that_no_noise_gives_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.05"):
        accounting.noise_multiplier(1e-3, 0.5, 10, DELTA)


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.5, 1.0, 300), (1.0, 0.04, 50), (8.0, 0.02, 1)]
)
def test_the_noise_for_an_epsilon_is_enough_and_hardly_more(
    epsilon: float, rate: float, steps: int
) -> None:
    noise = accounting.noise_multiplier(epsilon, rate, steps, DELTA)
    assert accounting.epsilon(noise, rate, steps, DELTA) <= epsilon
    assert accounting.epsilon(0.99 * noise, rate, steps, DELTA) > epsilon


@pytest.mark.parametrize("steps", [2 * accounting.MOST_STEPS, 10**9])
def test_very_many_steps_take_little_memory_and_no_less_noise(steps: int) -> None:
    """How many rows it has a node says itself: of 10^7 the exact composition took all memory."""
    tracemalloc.start()
    found = accounting.epsilon(0.6, 1e-5, steps, 1e-9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    fewer = accounting.epsilon(0.6, 1e-5, 20_000, 1e-9)
    assert fewer < found < math.inf


# ---- the budget of a configuration ----------------------------------------------------------


@given(st.integers(1, 100_000))
def test_delta_is_below_one_over_the_rows(rows: int) -> None:
    cfg = compose(f"{DP} privacy.epsilon=null privacy.noise_multiplier=1.0")
    assert 0 < budget.mechanism(cfg, rows).delta < 1 / rows


def test_a_delta_of_one_over_the_rows_is_refused() -> None:
    cfg = compose(f"{DP} privacy.delta=0.01")
    with pytest.raises(ValueError, match="below 1/100"):
        budget.mechanism(cfg, 100)
    assert budget.mechanism(cfg, 99).delta == 0.01


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 3), st.integers(1, 4))
def test_a_turn_is_as_long_as_without_privacy_and_takes_as_many_rows(
    rows: int, batch: int, accumulation: int, epochs: int
) -> None:
    cfg = configured(
        f"{DP} privacy.epsilon=null privacy.noise_multiplier=1.0",
        batch_size=batch, gradient_accumulation=accumulation, local_epochs=epochs,
    )  # fmt: skip
    mechanism = budget.mechanism(cfg, rows)
    assert mechanism.steps == epochs * math.ceil(rows / (batch * accumulation))
    assert mechanism.expected_rows == pytest.approx(min(rows, batch * accumulation))
    assert 0 < mechanism.sample_rate <= 1


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(SAMPLERS)), st.integers(1, 6), st.integers(1, 12), st.integers(0, 9),
    st.data(),
)  # fmt: skip
def test_no_client_takes_more_turns_than_the_budget_is_for(
    sampler: str, clients: int, rounds: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, clients))
    cfg = configured(
        small.DATA, federation__clients=clients, rounds=rounds, clients_per_round=count,
        strategy__sampler=sampler,
    )  # fmt: skip
    turns = list(
        itertools.chain.from_iterable(
            SAMPLERS[sampler](range(clients), count, seed, number + 1) for number in range(rounds)
        )
    )
    most = budget.most_turns(cfg)
    assert max(map(turns.count, range(clients))) <= most
    assert most <= rounds


def test_all_turns_together_cost_the_epsilon_asked_for_and_fewer_cost_less() -> None:
    uniform = compose(f"{DP} strategy=fedavg rounds=6")
    assert budget.most_turns(uniform) == 6
    cfg = compose(f"{DP} privacy.epsilon=2.0 strategy=single_client rounds=6 local_epochs=1")
    most = budget.most_turns(cfg)
    assert most == 2
    rows = {0: 50, 1: 20}
    spent = budget.spent(cfg, rows, dict.fromkeys(rows, most))
    assert spent is not None
    assert 1.9 < spent["epsilon"] <= 2.0
    assert spent["unit"] == "row"
    assert spent["delta"] == 1 / 40
    assert spent["noise_multiplier"] == min(
        budget.mechanism(cfg, count).noise_multiplier for count in rows.values()
    )
    less = budget.spent(cfg, rows, {0: 1})
    assert less is not None
    assert 0 < less["epsilon"] < spent["epsilon"]
    assert less["epsilon"] == budget.mechanism(cfg, 50).epsilon(1)
    none = budget.spent(cfg, rows, {})
    assert none is not None
    assert none["epsilon"] == 0


def test_clients_are_accounted_without_amplification() -> None:
    cfg = compose(f"{CLIENT} strategy.inner.noise_multiplier=4.0")
    spent = budget.spent(cfg, {0: 9, 1: 9, 2: 9}, {0: 3, 1: 5})
    assert spent is not None
    assert spent["unit"] == "client"
    assert spent["epsilon"] == accounting.epsilon(4.0, 1.0, 5, 1 / 6)
    assert spent["delta"] == 1 / 6
    assert (spent["noise"], spent["rehearsal"]) == ("secret", False)
    seeded = budget.spent(compose(f"{CLIENT} strategy.inner.seed=0"), {0: 9}, {0: 3})
    assert seeded is not None
    assert (seeded["noise"], seeded["rehearsal"]) == ("seeded", True)


def test_without_privacy_there_is_nothing_to_tell() -> None:
    assert budget.spent(compose(small.DATA), {0: 9}, {0: 3}) is None
