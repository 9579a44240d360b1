"""FedZip: three encodings that are read back, of the bytes that the formulas say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, fedzip, from_spec
from fl_app.codecs.fedzip import ROUNDS, centroids, prune
from fl_app.codecs.parts.centroids import descend
from fl_app.codecs.streams import clusters
from fl_app.codecs.streams.bits import BitReader

LARGEST = 2.0**100
ANY = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-LARGEST, LARGEST, width=32))
NUMBERS = st.one_of(
    hnp.arrays(np.uint8, st.integers(1, 200), elements=st.integers(0, 2)),
    st.builds(  # a few of one cluster among many of another, and the third empty or not
        lambda n, common, at: np.array([at.get(i, common) for i in range(n)], np.uint8),
        st.integers(1, 3000),
        st.integers(0, 2),
        st.dictionaries(st.integers(0, 2999), st.integers(0, 2), max_size=5),
    ),
)


def positions(symbols):
    return [np.flatnonzero(symbols == c) for c in range(3)]


def gamma(number: int) -> int:
    return 2 * math.floor(math.log2(number)) + 1


def formula(symbols, coder: int, implied: int) -> int:
    """Return the bits of an encoding, as the docstrings have it, gap by gap."""
    n, others = symbols.size, [at for c, at in enumerate(positions(symbols)) if c != implied]
    if coder == clusters.HUFFMAN:
        return 4 + n + sum(at.size for at in others)
    if coder == clusters.ADDRESSES:
        return 4 + sum(gamma(at.size + 1) + at.size * math.ceil(math.log2(n)) for at in others)
    bits = 4
    for at in others:
        gaps = [b - a - 1 for a, b in pairwise([-1, *at.tolist()])]
        rice = min(sum((g >> r) + 1 + r for g in gaps) for r in range(32)) if gaps else -5
        bits += gamma(at.size + 1) + 5 + rice
    return bits


@given(symbols=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_every_encoding_is_read_back_and_takes_the_bits_of_its_formula(symbols):
    at, expected = positions(symbols), {}
    for (coder, implied), size in clusters.sizes(symbols.size, at).items():
        bits = clusters.write(symbols, at, coder, implied)
        assert bits.size == size == formula(symbols, coder, implied)
        reader = BitReader(np.packbits(bits).tobytes())
        assert clusters.decode(reader, symbols.size).tolist() == symbols.tolist()
        assert reader.at == size
        expected[coder, implied] = size
    assert clusters.encode(symbols).size == min(expected.values()) <= clusters.most(symbols.size)


def test_each_encoding_is_the_cheapest_somewhere():
    def coder(count, kept):
        symbols = np.ones(count, np.uint8)
        rng = np.random.default_rng(0)
        symbols[rng.choice(count, kept, replace=False)] = 2 * rng.integers(0, 2, kept)
        return clusters.encode(symbols)[:2].tolist()

    assert coder(1000, 500) == [0, clusters.HUFFMAN]
    assert coder(1000, 1) == [0, clusters.ADDRESSES]
    assert coder(1000, 30) == [1, 0]  # gaps


def test_the_lengths_of_the_huffman_code_fill_its_tree():
    symbols = np.array([1, 0, 2], np.uint8)
    lengths = [
        clusters.write(one, positions(one), clusters.HUFFMAN, 1).size - clusters.HEADER
        for one in np.split(symbols, 3)
    ]
    assert lengths == [1, 2, 2]
    assert sum(2.0**-n for n in lengths) == 1


@given(x=ANY, fraction=st.floats(0.01, 1), pinned=st.booleans())
@settings(max_examples=100, deadline=None)
def test_three_values_at_most_and_with_a_pinned_one_only_where_the_largest_were(
    x, fraction, pinned
):
    tree = {"x": x.reshape(-1, 1)}
    codec = fedzip(fraction, pinned)
    wire, _ = codec.encode(tree, (), tree)
    out = codec.decode(wire, tree)["x"].ravel()
    assert np.unique(out).size <= 3
    bits = clusters.encode(clusters.decode(BitReader(wire.sections[1]), x.size)).size
    assert wire.nbytes == (8 if pinned else 12) + math.ceil(bits / 8)
    if not pinned:
        return
    k = max(1, round(fraction * x.size))
    assert np.flatnonzero(out).size <= k
    smallest_kept = np.sort(np.abs(x))[x.size - k]
    assert (np.abs(x[out != 0]) >= smallest_kept).all()
    again = codec.decode(codec.encode({"x": out.reshape(-1, 1)}, (), tree)[0], tree)["x"].ravel()
    assert again.tolist() == out.tolist()


@given(x=ANY, pinned=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_round_raises_the_square_error(x, pinned):
    def cost(book):
        return float(np.min((x[:, None] - book.astype(np.float64)) ** 2, axis=1).sum())

    costs = [cost(centroids(x, pinned, rounds)) for rounds in range(ROUNDS + 1)]
    # Centroids are float32, and so are as far from the means as that rounds.
    slack = x.size * float(np.abs(x).max(initial=0)) ** 2 * 2.0**-22
    assert all(after <= before + slack for before, after in pairwise(costs))


def test_a_cell_without_values_keeps_its_centroid():
    x = np.array([-10.0, -9.0, 9.0, 10.0])
    begin = np.array([-10.0, 0.0, 10.0])
    assert descend(x, begin, ROUNDS).tolist() == [-9.5, 0.0, 9.5]
    assert descend(x[2:], begin, ROUNDS).tolist() == [-10.0, 0.0, 9.5]


def test_a_pinned_centroid_stays_and_a_free_one_is_the_mean_of_what_was_pruned():
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) + 0.01
    pruned = prune(x.ravel(), np.zeros(2000, bool), 0.9)
    assert centroids(pruned, pinned=True)[1] == 0
    assert centroids(pruned, pinned=False)[1] != 0
    out = fedzip(0.9, pinned=False)
    decoded = out.decode(out.encode({"x": x}, (), {"x": x})[0], {"x": x})["x"].ravel()
    assert (decoded[pruned == 0] == centroids(pruned, pinned=False)[1]).all()


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("values", [[7], [0], [-1, 7], [5, 5, 5, 5], [0, 3, 2, 3], [-2, 0, 7, 0]])
def test_a_few_different_values_are_exact(values, pinned):
    tree = {"x": np.array([values], np.float32)}
    codec = fedzip(1.0, pinned)
    assert codec.decode(codec.encode(tree, (), tree)[0], tree)["x"].tolist() == [values]


def test_three_different_values_are_exact_where_none_is_pinned():
    tree = {"x": np.array([[1, 1.01, 7, 1]], np.float32)}
    codec = fedzip(1.0, pinned=False)
    assert codec.decode(codec.encode(tree, (), tree)[0], tree)["x"].tolist() == tree["x"].tolist()


@pytest.mark.parametrize("scope", ["tensor", "tree"])
def test_biases_are_not_pruned(scope):
    tree = {
        "weight": np.array([[5, -5, 0.3, 0.2, 0.1, 0.1]], np.float32),
        "bias": np.full(4, 5, np.float32),
    }
    codec = fedzip(0.3, scope=scope)
    out = codec.decode(codec.encode(tree, (), tree)[0], tree)
    assert out["weight"].tolist() == [[5, -5, 0, 0, 0, 0]]
    assert out["bias"].tolist() == [5, 5, 5, 5]


def bits(*parts: str) -> bytes:
    text = "".join(parts)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


# Of 20 values around the implied cluster 1: the number of others plus 1 in gamma code, positions in
# five bits, gaps with r = 0 after five bits.
@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (bits("1101"), "unknown"),
        (bits("0011"), "unknown"),
        (bits("0001", "1011"), "truncated"),
        (bits("0101", "011", "00000", "00000", "1"), "ascend"),
        (bits("0101", "010", "10100", "1"), "ascend"),
        (bits("0101", "010", "00011", "010", "00011"), "two of them"),
        (bits("0101", "00111", "00000", "00001"), "more addresses"),
        (bits("1001", "010", "00000", "0" * 20, "1"), "longer than the stream"),
        (bits("1001", "010", "00000", "01", "010", "00000", "01"), "two of them"),
        (bits("0101", "010", "00011", "1", "11"), "padded"),
        (bits("0101", "1", "1") + b"\0", "after the last value"),
        (b"", "truncated"),
    ],
)
def test_refuses_what_no_sender_writes(coded, message):
    ref = {"x": np.zeros((1, 20), np.float32)}
    with pytest.raises(WireError, match=message):
        fedzip().decode(Wire((bytes(8), coded)), ref)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_centroids_that_are_no_numbers(value):
    ref = {"x": np.zeros((1, 5), np.float32)}
    wire, _ = fedzip().encode(ref, (), ref)
    with pytest.raises(WireError, match="centroid"):
        fedzip().decode(Wire((np.array([0, value], "<f4").tobytes(), wire.sections[1])), ref)


@pytest.mark.parametrize(
    "arguments", [{"fraction": 0}, {"fraction": 2}, {"pinned": 1}, {"scope": "block"}]
)
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="fedzip: "):
        from_spec({"id": "fedzip", **arguments})
