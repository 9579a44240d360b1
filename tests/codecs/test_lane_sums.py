"""Sums in lanes: close to the exact ones, and the compiled kernels round as numpy does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fl_app.codecs.parts import lane_sums
from fl_app.codecs.parts.lane_sums import LANES


def values(n: int, salt: int = 0) -> np.ndarray:
    rng = np.random.default_rng(salt)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)).astype(np.float32)


SIZES = [0, 1, LANES - 1, LANES, LANES + 1, lane_sums.CHUNK + 5, 3 * lane_sums.CHUNK]


@pytest.mark.parametrize("n", SIZES)
def test_sums_are_those_of_exact_arithmetic(n):
    x, y = values(n), values(n, 1)
    symbols, table = (np.arange(n) % 256).astype(np.uint8), values(256, 2)
    wide = x.astype(float)
    for found, terms in [
        (lane_sums.squared_norm(x), wide**2),
        (lane_sums.squared_distance(x, y), (wide - y) ** 2),
        (lane_sums.squared_loss(x, symbols, table), (wide - table[symbols]) ** 2),
    ]:
        # n additions of positive terms, each rounded by at most half a unit in the last place
        assert found == pytest.approx(math.fsum(terms), rel=(n + 4) * 2.0**-53, abs=0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dithered", [False, True])
def test_kernels_round_as_numpy_does(n, dithered):
    x, y = values(n), values(n, 1)
    symbols, table = (np.arange(n) % 256).astype(np.uint8), values(256, 2)
    draw = np.random.default_rng(3).integers(0, 2**32, n if dithered else 0, np.uint32)
    for kernel, plain, args, sums in [
        (lane_sums._squared_norm, lane_sums.squared_norm_numpy, (x,), 1),
        (lane_sums._squared_distance, lane_sums.squared_distance_numpy, (x, y), 1),
        (lane_sums._squared_loss, lane_sums.squared_loss_numpy, (x, symbols, table), 1),
        (lane_sums._roundings, lane_sums.roundings_numpy, (x, 1 / 0.37, draw), 3),
    ]:
        found, expected = (np.zeros((sums, LANES)).squeeze() for _ in range(2))
        kernel(*args, found)
        plain(*args, expected)
        assert found.tobytes() == expected.tobytes()
