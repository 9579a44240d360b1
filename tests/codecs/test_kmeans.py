"""k-means: Lloyd's descent, exact where it can be, never worse than a grid."""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, from_spec, kmeans, uniform
from fl_app.codecs.kmeans import lloyd, nearest, start
from tests.codecs.sending import relative_error

SAMPLES = {
    "gauss": lambda rng: rng.standard_normal(20_000),
    "laplace": lambda rng: rng.laplace(size=20_000),
    "t3": lambda rng: rng.standard_t(3, size=20_000),
    "flat": lambda rng: rng.random(20_000),
    "sparse": lambda rng: rng.standard_normal(20_000) * (rng.random(20_000) < 0.05),
    "two sizes": lambda rng: rng.standard_normal(20_000) * np.repeat([1, 100], 10_000),
}
ANY = hnp.arrays(
    np.float32, st.integers(1, 30), elements=st.floats(-(2.0**127), 2.0**127, width=32)
)


def sample(name):
    return SAMPLES[name](np.random.default_rng(0)).astype(np.float32)


def cost(x, centroids) -> float:
    middles = (centroids[1:] + centroids[:-1]) / 2
    return float(((x - centroids[np.searchsorted(middles, x)]) ** 2).sum())


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("k", [2, 3, 16, 100])
def test_no_round_raises_the_square_error(name, k):
    x = np.sort(sample(name)).astype(np.float64)
    costs = [cost(x, start(x, k))] + [cost(x, lloyd(x, k, rounds)) for rounds in range(1, 30)]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(costs))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_not_worse_than_as_many_uniform_levels(name, bits):
    x = sample(name)
    assert relative_error(kmeans(2**bits - 1), x) <= relative_error(uniform(bits=bits), x)


@pytest.mark.parametrize(("k", "least"), [(2, 0.6028), (4, 0.3428), (16, 0.0975), (256, 0.0064)])
def test_errors_on_gaussian_values_are_those_of_lloyd_and_max(k, least):
    x = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    assert relative_error(kmeans(k), x) == pytest.approx(least, rel=0.01)


@given(x=ANY, k=st.integers(2, 256))
@settings(max_examples=100, deadline=None)
def test_any_values_stay_within_their_range_and_few_are_exact(x, k):
    tree, codec = {"x": x}, kmeans(k)
    out = codec.decode(codec.encode(tree, (), tree)[0], tree)["x"]
    assert x.min() <= out.min() <= out.max() <= x.max()
    if np.unique(x).size <= k:
        assert out.tolist() == x.tolist()


def test_encoding_what_was_decoded_changes_no_bit():
    tree, codec = {"x": sample("laplace")}, kmeans()
    once = codec.decode(codec.encode(tree, (), tree)[0], tree)
    twice = codec.decode(codec.encode(once, (), tree)[0], tree)
    assert twice["x"].tobytes() == once["x"].tobytes()


def test_nearest_takes_the_lower_one_of_two():
    book = np.array([-1, 0, 2, 2], np.float32)
    x = np.array([-9, -0.5, -0.49, 1, 1.01, 2, 9], np.float32)
    assert nearest(x, book).tolist() == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(("k", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8)])
def test_sections(k, bits):
    tree = {"x": sample("gauss")[:999], "y": sample("flat")[:10], "none": np.empty(0, np.float32)}
    for scope, books in (("tree", 1), ("tensor", 2)):
        codec = kmeans(k, scope)
        wire = codec.encode(tree, (), tree)[0]
        assert [len(s) for s in wire.sections] == [4 * k * books, math.ceil(1009 * bits / 8)]


def test_refuses_what_no_sender_writes():
    codec, ref = kmeans(3), {"x": np.zeros(3, np.float32)}
    good = struct.pack("<3f", -1, 0, 1)
    for book in (struct.pack("<3f", 0, math.nan, 1), struct.pack("<3f", 0, 1, math.inf)):
        with pytest.raises(WireError, match="centroid"):
            codec.decode(Wire((book, b"\0")), ref)
    for symbols, message in ((b"\xc0", "above 2"), (b"\x01", "padded")):
        with pytest.raises(WireError, match=message):
            codec.decode(Wire((good, symbols)), ref)


@pytest.mark.parametrize(
    "arguments", [{"centroids": k} for k in (1, 257, 4.0, True, "4")] + [{"scope": 64}]
)
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="kmeans: "):
        from_spec({"id": "kmeans", **arguments})
