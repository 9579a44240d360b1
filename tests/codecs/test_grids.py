"""Values that lie on a quantizer's grid are encoded without a second loss."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fl_app.codecs import Codec, chain, delta, entropy, sign, ternary, uniform
from fl_app.codecs.parts import uniform_grid
from fl_app.codecs.parts.uniform_step import LARGEST, short
from tests.codecs.sending import encode

levels = st.lists(st.integers(-127, 127), min_size=1, max_size=300)
steps = st.floats(1e-6, 1e3).map(short)


def through(codec: Codec, tree, ref):
    return codec.decode(encode(codec, tree, ref), ref)


@given(levels, steps)
def test_a_trained_grid_is_kept(found, step) -> None:
    assume(any(found) and min(abs(k) for k in found if k) <= uniform_grid.FIRST)
    x = (np.array(found) * step).astype(np.float32)
    for codec in (uniform(error=0.5, grid=True), uniform(error=0.5, grid=True, centroid=False)):
        out = through(codec, {"w": x}, {"w": np.zeros_like(x)})
        assert np.array_equal(out["w"], x)


@given(levels, steps, st.integers(0, 99))
def test_a_trained_grid_is_kept_after_it_was_added_to_a_start(found, step, seed) -> None:
    """As the change of a model since its start is: its values are rounded to float32 twice."""
    found = [1, *found]
    rng = np.random.default_rng(seed)
    # Starts of which a step is at least 2**13 units in the last place.
    start = (rng.uniform(-1, 1, len(found)) * step * 2**10).astype(np.float32)
    x = start + (np.array(found) * step).astype(np.float32)
    codec = entropy(chain(delta(), uniform(error=0.5, grid=True, centroid=False)))
    assert np.array_equal(through(codec, {"w": x}, {"w": start})["w"], x)


@pytest.mark.parametrize("scope", ["tree", "tensor"])
@pytest.mark.parametrize("error", [0.05, 0.3, 0.6])
@given(seed=st.integers(0, 999))
def test_what_was_decoded_is_relayed_as_it_is(scope, error, seed) -> None:
    rng = np.random.default_rng(seed)
    ref = {name: np.zeros((20, 30), np.float32) for name in "ab"}
    tree = {name: rng.standard_t(8, (20, 30)).astype(np.float32) * 1e-3 for name in ref}
    codec = uniform(error=error, centroid=False, grid=True, scope=scope)
    once = through(codec, tree, ref)
    assume(all(np.any(x) for x in once.values()))
    again = through(codec, once, ref)
    assert all(np.array_equal(once[name], again[name]) for name in ref)


@pytest.mark.parametrize("codec", [sign(), ternary()])
@given(st.lists(st.sampled_from([-1, 1]), min_size=2, max_size=50), steps)
def test_codecs_of_one_magnitude_keep_their_grid(codec, signs, step) -> None:
    x = (np.array(signs) * step).astype(np.float32)
    assert np.array_equal(through(codec, {"w": x}, {"w": np.zeros_like(x)})["w"], x)


@given(seed=st.integers(0, 999), n=st.integers(20, 500))
def test_other_values_are_encoded_as_without_it(seed, n) -> None:
    x = {"w": np.random.default_rng(seed).normal(size=n).astype(np.float32)}
    ref = {"w": np.zeros(n, np.float32)}
    plain, grid = uniform(error=0.2), uniform(error=0.2, grid=True)
    assert encode(plain, x, ref).sections == encode(grid, x, ref).sections


@given(levels)
def test_levels_beyond_the_bits_are_no_grid(found) -> None:
    x = np.array(found, np.float32)
    step = uniform_grid.found(x, most=7)
    assert step == 0 or np.abs(x / step).max() <= 7


def test_with_dither_there_is_no_grid() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        uniform(error=0.3, dither=True, grid=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("least", [LARGEST, LARGEST / 127, 2.0**-149])
def test_the_largest_and_the_least_floats_are_looked_at_without_a_warning(least) -> None:
    x = np.array([least, least, 0, -least], np.float32)
    decoded = through(uniform(error=0.5, grid=True), {"w": x}, {"w": np.zeros_like(x)})["w"]
    assert np.array_equal(decoded, x)
