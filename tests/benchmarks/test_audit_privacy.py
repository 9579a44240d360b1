"""The audit of privacy: what its bounds are worth, and an accountant that is not ours."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.audit_privacy import CONFIDENCE, DELTA, attack, compare_epsilons, lower_bound
from fl_app.privacy import accounting


@given(st.integers(1, 200), st.data())
def test_a_bound_is_below_what_was_seen_and_grows_with_what_is_found(
    turns: int, data: st.DataObject
) -> None:
    hits, alarms = (data.draw(st.integers(0, turns)) for _ in "ab")
    bound = lower_bound(hits, turns, alarms, turns)
    if alarms and hits > DELTA * turns:
        assert bound <= math.log((hits / turns - DELTA) / (alarms / turns))
    if hits < turns:
        assert bound <= lower_bound(hits + 1, turns, alarms, turns)
    if alarms < turns and hits / turns > 0.2:
        assert bound >= lower_bound(hits, turns, alarms + 1, turns)


def test_it_is_as_often_wrong_as_it_says() -> None:
    """Of mechanisms whose epsilon is known to be 1 at DELTA, the worst there is."""
    rng = np.random.default_rng(0)
    found, wrong = DELTA + (1 - DELTA) * np.e / (1 + np.e), (1 - DELTA) / (1 + np.e)
    bounds = [
        lower_bound(rng.binomial(300, found), 300, rng.binomial(300, wrong), 300)
        for _ in range(2000)
    ]
    above = np.mean(np.array(bounds) > 1.0)
    assert above < 1 - CONFIDENCE + 0.02
    assert np.median(bounds) > 0.6


@pytest.mark.parametrize(
    ("shift", "least", "most"), [(0.0, 0.0, 0.5), (1.0, 0.3, 3.0), (6.0, 3.5, 9)]
)
def test_it_finds_a_shift_of_the_sum_and_none_where_there_is_none(
    shift: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(1)
    present, absent = (
        {"seed": rng.normal(x, 1, 1000), "mean": rng.normal(0, 1, 1000)} for x in (shift, 0)
    )
    found = attack(present, absent)
    assert least <= found["bound"] <= most
    if shift > 5:
        assert found["true"] > 0.95 > 0.05 > found["false"]


@settings(max_examples=6)
@given(
    st.floats(0.7, 4), st.sampled_from([0.01, 0.1, 1.0]), st.integers(1, 100),
    st.sampled_from([1e-5, 1e-2]),
)  # fmt: skip
def test_epsilon_is_that_of_dp_accounting(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    """To the accountant's own precision of 0.01, and a hundredth."""
    for ours, theirs in compare_epsilons([(noise, rate, steps, delta)]):
        assert ours == pytest.approx(theirs, rel=0.01, abs=0.02)
        assert ours >= theirs - 0.01
        assert ours <= accounting.LARGE
