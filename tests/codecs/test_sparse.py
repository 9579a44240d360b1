"""Special to the sparsifying codecs: top_k, random_k and nonzero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import (
    CodecError,
    Wire,
    WireError,
    chain,
    delta,
    entropy,
    error_feedback,
    fp32,
    from_spec,
    nf4,
    nonzero,
    random_k,
    top_k,
)
from fl_app.codecs.parts.sparse import count, largest
from fl_app.tree import digest
from tests.codecs.sending import encode, round_trip

SHAPES = [(), (0,), (1,), (65,), (8, 16), (2, 3, 5)]


def tree_of(salt, shapes=SHAPES):
    rng = np.random.default_rng(salt)
    return {f"t{i}": np.asarray(rng.standard_normal(s), np.float32) for i, s in enumerate(shapes)}


def flat(tree):
    return np.concatenate([x.ravel() for x in tree.values()]).astype(np.float64)


def shapes_of(tree):
    return [(name, x.shape) for name, x in tree.items()]


# Few different values: many ties, also between x and -x and between 0 and -0.
coarse = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.sampled_from([-2.0, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 2.0]),
)
fractions = st.floats(0.001, 1.0)

# --- how many, and which --------------------------------------------------------------------------


def test_k_is_the_nearest_integer_halves_to_the_even_one_and_at_least_one():
    assert [count(0.05, n) for n in (0, 1, 29, 30, 31, 50, 70, 90)] == [0, 1, 1, 2, 2, 2, 4, 4]
    assert [count(1, n) for n in (0, 1, 7)] == [0, 1, 7]
    assert count(1e-300, 10**9) == 1


@given(x=coarse, fraction=fractions)
@settings(deadline=None)
def test_top_k_keeps_what_a_stable_sort_would(x, fraction):
    k = count(fraction, x.size)
    first = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    wire, _ = top_k(fraction).encode({"x": x}, (), {"x": x})
    assert wire.rest["x"].tobytes() == x[first].tobytes()
    assert np.flatnonzero(np.unpackbits(np.frombuffer(wire.sections[0], np.uint8))).tolist() == (
        first.tolist()
    )


@given(
    keys=hnp.arrays(np.uint32, st.integers(1, 100), elements=st.sampled_from([0, 1, 7, 2**32 - 1])),
    data=st.data(),
)
@settings(deadline=None)
def test_the_largest_keys_are_exactly_k_and_of_lowest_index(keys, data):
    k = data.draw(st.integers(0, keys.size))
    order = np.argsort(-keys.astype(np.int64), kind="stable")[:k]
    assert np.flatnonzero(largest(keys, k)).tolist() == sorted(order.tolist())


def test_the_scope_tree_finds_the_largest_of_all_tensors():
    small, large = np.full(40, 0.1, np.float32), np.full((4, 10), 9.0, np.float32)
    tree = {"small": small, "large": large}
    wire, _ = top_k(0.5, "tree").encode(tree, (), tree)
    assert shapes_of(wire.rest) == [("values", (40,))]
    assert wire.sections == (b"\0" * 5 + b"\xff" * 5,)
    per_tensor, _ = top_k(0.5).encode(tree, (), tree)
    assert shapes_of(per_tensor.rest) == [("small", (20,)), ("large", (20,))]


# --- error ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["tensor", "tree"])
@given(
    x=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e3, 1e3, width=32)),
    fraction=fractions,
)
@settings(deadline=None)
def test_top_k_is_a_contraction_exact_where_kept_and_idempotent(scope, x, fraction):
    codec = chain(top_k(fraction, scope), fp32())
    out = round_trip(codec, {"x": x})["x"]
    kept = out != 0
    assert np.array_equal(out[kept], x[kept])
    k, norm = count(fraction, x.size), np.square(x, dtype=np.float64).sum()
    error = np.square(x[~kept], dtype=np.float64).sum()
    assert error <= (1 - k / x.size) * norm * (1 + 1e-12)
    assert round_trip(codec, {"x": out})["x"].tobytes() == out.tobytes()


def many_draws(codec, tree, n):
    state, outs = codec.init(tree, 7), []
    for _ in range(n):
        wire, state = codec.encode(tree, state, tree)
        outs.append(flat(codec.decode(wire, tree)))
    return np.array(outs)


def test_rescaled_random_k_is_unbiased_and_its_error_is_the_stated_one():
    tree = tree_of(1, [(40,), (5, 8)])
    x, draws = flat(tree), 4000
    outs = many_draws(chain(random_k(0.2, rescale=True), fp32()), tree, draws)
    # A value is 5 x with probability 1/5: variance 4 x^2, so five standard errors.
    assert np.all(np.abs(outs.mean(axis=0) - x) <= 5 * 2 * np.abs(x) / draws**0.5)
    error = np.square(outs - x).sum(axis=1).mean()
    assert error == pytest.approx(4 * np.square(x).sum(), rel=0.05)


def test_random_k_keeps_every_position_equally_often():
    tree, draws = {"x": np.ones(50, np.float32)}, 4000
    outs = many_draws(chain(random_k(0.1), fp32()), tree, draws)
    assert set(outs.sum(axis=1)) == {5}
    often = outs.sum(axis=0)
    assert np.all(np.abs(often - 400) <= 5 * (400 * 0.9) ** 0.5)
    # Two positions together: 5 * 4 / (50 * 49) of the draws.
    pairs = (outs.T @ outs)[~np.eye(50, dtype=bool)]
    assert pairs.mean() == pytest.approx(draws * 20 / 2450)
    assert np.abs(pairs - pairs.mean()).max() <= 6 * pairs.mean() ** 0.5


def test_random_k_draws_anew_every_message_and_alike_from_one_seed():
    tree = tree_of(1)
    codec = random_k(0.3)
    state = codec.init(tree, 3)
    first, after = codec.encode(tree, state, tree)
    second, _ = codec.encode(tree, after, tree)
    again, _ = codec.encode(tree, codec.init(tree, 3), tree)
    assert first.sections != second.sections
    assert first.sections == again.sections
    assert digest(first.rest) == digest(again.rest)
    assert state.tolist() == [3, 0]
    assert after.tolist() == [3, 1]


def test_the_positions_of_a_nonce_are_pinned():
    ref = {"x": np.zeros(40, np.float32), "y": np.zeros(3, np.float32)}
    rest = {"x": np.arange(1, 5, dtype=np.float32), "y": np.ones(1, np.float32)}
    out = random_k(0.1).decode(Wire((b"\1\2\3\4",), rest), ref)
    assert np.flatnonzero(out["x"]).tolist() == [9, 24, 28, 34]
    assert np.flatnonzero(out["y"]).tolist() == [2]


def test_rescaling_beyond_float32_is_refused():
    tree = {"x": np.full(100, 3e38, np.float32)}
    with pytest.raises(CodecError, match="'x'"):
        random_k(0.05, rescale=True).encode(tree, random_k().init(tree), tree)


# --- hostile bytes --------------------------------------------------------------------------------


def test_a_bitmap_of_another_weight_or_padding_is_refused():
    ref = {"a": np.zeros(10, np.float32), "b": np.zeros(3, np.float32)}
    rest = {"a": np.ones(2, np.float32), "b": np.ones(1, np.float32)}
    codec = top_k(0.2)

    def decode(bits):
        return codec.decode(Wire((np.packbits(bits).tobytes(),), rest), ref)

    good = np.zeros(16, np.uint8)
    good[[3, 9, 10]] = 1
    out = decode(good)
    assert out["a"].nonzero()[0].tolist() == [3, 9]
    assert out["b"].tolist() == [1, 0, 0]
    for at, message in ((0, "'a' keeps 3"), (12, "'b' keeps 2"), (13, "padded"), (15, "padded")):
        bad = good.copy()
        bad[at] = 1
        with pytest.raises(WireError, match=message):
            decode(bad)
    moved = good.copy()
    moved[[9, 11]] = 0, 1  # as many in all, but not per tensor
    with pytest.raises(WireError, match="'a' keeps 1"):
        decode(moved)
    with pytest.raises(WireError, match="'a' keeps 0"):
        decode(np.zeros(16, np.uint8))


@pytest.mark.parametrize("codec", [top_k(0.2), random_k(0.2)], ids=["top_k", "random_k"])
def test_a_rest_of_another_shape_is_refused(codec):
    tree = tree_of(1)
    wire, _ = codec.encode(tree, codec.init(tree), tree)
    name, x = next(iter(wire.rest.items()))
    others = [
        {},
        {**wire.rest, name: np.zeros(x.size + 1, np.float32)},
        {**wire.rest, "more": x},
        dict(reversed(wire.rest.items())),
    ]
    for rest in others:
        with pytest.raises(WireError, match="rest"):
            codec.decode(Wire(wire.sections, rest), tree)


# --- narrowing and chains -------------------------------------------------------------------------

LINKS = [top_k(0.2), top_k(0.2, "tree"), random_k(0.2), random_k(0.2, rescale=True)]


@pytest.mark.parametrize("codec", LINKS, ids=lambda c: str(list(c.spec.values())))
def test_narrow_names_exactly_the_rest_whatever_the_values(codec):
    for shapes in ([], *[[s] for s in SHAPES], SHAPES):
        tree = tree_of(1, shapes)
        wire, _ = codec.encode(tree, codec.init(tree), tree)
        narrow = codec.narrow({name: np.full_like(x, np.nan) for name, x in tree.items()})
        assert shapes_of(narrow) == shapes_of(wire.rest)
        assert not any(x.any() for x in narrow.values())
        assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in wire.rest.values())
        assert [len(s) for s in wire.sections] == [s.nbytes for s in codec.streams(tree)]


CHAINS = {
    "delta-top_k-nf4": chain(delta(), top_k(0.1), nf4()),
    "delta-tree-nf4": chain(delta(), top_k(0.1, "tree"), nf4()),
    "delta-random_k-nf4": chain(delta(), random_k(0.1), nf4()),
    "nested": chain(chain(delta(), top_k(0.5)), chain(top_k(0.5, "tree"), random_k(0.5)), fp32()),
    "deep": chain(delta(), chain(chain(random_k(0.5)), chain(top_k(0.5), nf4(16)))),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_narrow_from_link_to_link(name):
    codec, tree, ref = CHAINS[name], tree_of(1), tree_of(2)
    wire, _ = codec.encode(tree, codec.init(ref, 5), ref)
    assert [len(s) for s in wire.sections] == [s.nbytes for s in codec.streams(ref)]
    out = codec.decode(wire, ref)
    assert shapes_of(out) == shapes_of(tree)
    # Sections say which values; those that are not sent stay the reference's, bit for bit.
    same = flat(out) == flat(ref)
    assert 0.5 <= same.mean() < 1
    assert np.linalg.norm(flat(out) - flat(tree)) < np.linalg.norm(flat(ref) - flat(tree))
    again = from_spec(codec.spec)
    assert again.encode(tree, again.init(ref, 5), ref)[0].sections == wire.sections


def test_two_sparsifiers_keep_the_product_of_their_fractions():
    tree = {"x": np.arange(1, 101, dtype=np.float32)}
    out = round_trip(chain(top_k(0.5), top_k(0.5, "tree"), fp32()), tree)["x"]
    assert np.flatnonzero(out).tolist() == list(range(75, 100))


def test_states_go_through_a_chain_each_with_the_tree_its_link_sees():
    tree = tree_of(1)
    codec = chain(delta(), chain(top_k(0.5), random_k(0.5)), nf4())
    state = codec.init(tree, 9)
    assert [type(s) for s in state] == [tuple, tuple, tuple]
    assert state[1][1].tolist() == [9, 0]
    _, after = codec.encode(tree, state, tree)
    assert after[1][1].tolist() == [9, 1]
    assert state[1][1].tolist() == [9, 0]  # encode changed nothing of the sender's


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec_id", ["top_k", "random_k"])
@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.01, float("nan"), "0.1", True, None, [0.1]])
def test_a_fraction_is_a_share(codec_id, fraction):
    with pytest.raises(ValueError, match=f"{codec_id}: fraction"):
        from_spec({"id": codec_id, "fraction": fraction})


def test_the_other_arguments_are_checked():
    for scope in ("layer", None, 3, ["tree"]):
        with pytest.raises(ValueError, match="top_k: scope must be 'tensor' or 'tree'"):
            from_spec({"id": "top_k", "scope": scope})
    for rescale in (1, "yes", None):
        with pytest.raises(ValueError, match="random_k: rescale"):
            from_spec({"id": "random_k", "rescale": rescale})


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_nonzero_takes_a_bit_a_value_and_what_is_not_zero(share, seed):
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((41, 5)) < share, rng.standard_normal((41, 5)), 0).astype(np.float32)
    tree, k = {"a": x, "b": -x[:1]}, np.count_nonzero(x) + np.count_nonzero(x[:1])
    for codec in (nonzero(fp32()), entropy(nonzero(fp32()))):
        wire = encode(codec, tree, tree)
        assert wire.nbytes == 27 + 4 * k or codec.spec["id"] == "entropy"
        assert wire.nbytes <= 29 + 4 * k
        out = codec.decode(wire, tree)
        assert all((out[name] == tree[name]).all() for name in tree)
    coarse = entropy(nonzero(nf4(16)))  # symbols of 4 bits in a section of any length
    out = coarse.decode(encode(coarse, tree, tree), tree)
    assert all((out[name] != 0)[tree[name] == 0].sum() == 0 for name in tree)


def test_nonzero_wants_a_codec_that_ends_and_forgets():
    for inner in (error_feedback(fp32()), top_k(0.5)):
        with pytest.raises(ValueError, match="nonzero: "):
            nonzero(inner)
    ref = {"x": np.zeros(3, np.float32)}
    with pytest.raises(WireError, match="padded"):
        nonzero(fp32()).decode(Wire((b"\x01", b"")), ref)
