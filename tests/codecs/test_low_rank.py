"""Special to low_rank: matrices with a known singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import CodecError, Wire, WireError, chain, delta, fp32, from_spec, low_rank, nf4
from fl_app.codecs.low_rank import factors, orthonormalize, weighted_sum
from fl_app.codecs.parts.compiled import numba
from tests.codecs.sending import round_trip


def with_spectrum(shape, spectrum, salt=0):
    """A matrix with these singular values."""
    rng = np.random.default_rng(salt)
    u, v = (np.linalg.qr(rng.standard_normal((size, len(spectrum))))[0] for size in shape)
    return ((u * spectrum) @ v.T).astype(np.float32)


def norm(x):
    return np.linalg.norm(x.astype(np.float64))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (9, 8), (128, 300)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_a_matrix_of_that_rank_is_exact(shape, scale):
    x = with_spectrum(shape, np.array([3.0, 1.0]) * scale)
    out = round_trip(chain(low_rank(2), fp32()), {"x": x})["x"]
    assert norm(out - x) <= 1e-6 * norm(x)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_error_is_close_to_the_least_possible(rank):
    spectrum = 1.0 / np.arange(1, 51)
    x = with_spectrum((100, 200), spectrum)
    least = np.linalg.norm(spectrum[rank:])
    error = norm(round_trip(chain(low_rank(rank), fp32()), {"x": x})["x"] - x)
    assert least * (1 - 1e-6) <= error <= 1.05 * least


@given(
    x=hnp.arrays(
        np.float32, st.tuples(*[st.integers(5, 12)] * 2), elements=st.floats(-1e6, 1e6, width=32)
    ),
    rank=st.integers(1, 3),
)
@settings(deadline=None)
def test_the_error_is_what_the_subspace_leaves_and_never_more_than_the_matrix(x, rank):
    p, q = factors(x, rank)
    gram = p @ p.T
    diagonal = gram.diagonal()
    assert np.allclose(gram, np.diag(diagonal), atol=1e-12)
    assert np.all((np.abs(diagonal - 1) < 1e-12) | (diagonal == 0))
    assert np.allclose(q, p @ x, rtol=1e-12, atol=1e-12 * norm(x))
    error = norm(x - p.T @ q) ** 2
    assert error == pytest.approx(norm(x) ** 2 - norm(q) ** 2, abs=1e-9 * norm(x) ** 2)
    assert norm(round_trip(chain(low_rank(rank), fp32()), {"x": x})["x"] - x) <= norm(x) * (
        1 + 1e-6
    )


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((20, 30), np.float32),
        np.full((20, 30), -2.5, np.float32),
        np.full((20, 30), 1e-45, np.float32),
        np.outer(np.eye(20)[3], np.eye(30)[7]).astype(np.float32),
    ],
    ids=["zero", "constant", "denormal", "single"],
)
def test_fewer_directions_than_the_rank_leave_zero_rows(x):
    codec = low_rank(4)
    wire, _ = codec.encode({"x": x}, (), {"x": x})
    live = np.abs(wire.rest["x/P"]).max(axis=1) > 0
    assert live.sum() == np.linalg.matrix_rank(x.astype(np.float64))
    assert np.allclose(codec.decode(wire, {"x": x})["x"], x, rtol=1e-6, atol=0)


def test_gram_schmidt_survives_nearly_dependent_rows():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(50)
    rows = np.array(
        [base, base + 1e-9 * rng.standard_normal(50), 3 * base, rng.standard_normal(50)]
    )
    out = orthonormalize(rows.copy())
    assert np.allclose(out @ out.T, np.diag([1, 1, 0, 1]), atol=1e-12)


def test_what_is_factored_and_what_passes():
    shapes = {
        "m": (8, 16),
        "thin": (2, 100),
        "conv": (6, 3, 4),
        "v": (64,),
        "s": (),
        "none": (9, 0),
    }
    tree = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    codec = low_rank(2)
    wire, state = codec.encode(tree, codec.init(tree), tree)
    assert (wire.sections, state) == ((), ())
    expected = {
        **{"m/P": (2, 8), "m/Q": (2, 16), "thin": (2, 100), "conv/P": (2, 6), "conv/Q": (2, 12)},
        **{"v": (64,), "s": (), "none": (9, 0)},
    }
    assert {name: x.shape for name, x in wire.rest.items()} == expected
    narrow = codec.narrow({name: np.full_like(x, np.nan) for name, x in tree.items()})
    assert [(n, x.shape) for n, x in narrow.items()] == list(expected.items())
    assert not any(x.any() for x in narrow.values())


def test_the_next_link_codes_the_factors():
    ref = {"w": with_spectrum((64, 96), [1.0, 0.5]), "b": np.ones(5, np.float32)}
    change = with_spectrum((64, 96), [5.0, 2.0, 0.1], salt=1)
    tree = {"w": ref["w"] + change, "b": ref["b"]}
    codec = chain(delta(), low_rank(2), nf4())
    wire, _ = codec.encode(tree, codec.init(ref), ref)
    # Rows of 64 and 96 values: 2 + 3 blocks for P and Q, one for b.
    assert wire.nbytes == (64 + 96 + 3) + 4 * (2 + 3 + 1)
    out = codec.decode(wire, ref)
    assert norm(out["w"] - tree["w"]) <= 0.15 * norm(change)
    assert out["b"].tobytes() == ref["b"].tobytes()


def test_values_whose_factors_leave_float32_are_refused():
    tree = {"x": np.full((50, 50), 3e38, np.float32)}
    with pytest.raises(CodecError, match="'x'"):
        low_rank(1).encode(tree, (), tree)


def test_a_rest_that_is_not_the_references_or_overflows_is_refused():
    ref = {"x": np.ones((8, 16), np.float32)}
    codec = low_rank(1)
    rest = codec.encode(ref, (), ref)[0].rest
    bad = [
        {},
        {"x/P": rest["x/P"]},
        {"x/Q": rest["x/Q"], "x/P": rest["x/P"]},
        {**rest, "x/P": rest["x/P"].T.copy()},
        {"x": ref["x"]},
    ]
    for other in bad:
        with pytest.raises(WireError, match="factors of the reference"):
            codec.decode(Wire((), other), ref)
    huge = {name: np.full_like(x, 1e30) for name, x in rest.items()}
    with pytest.raises(WireError, match=r"'x'.*beyond float32"):
        codec.decode(Wire((), huge), ref)


def test_a_name_that_is_already_a_factors_is_refused():
    ref = {"x": np.ones((8, 16), np.float32), "x/Q": np.ones(3, np.float32)}
    with pytest.raises(CodecError, match="'x/Q'"):
        low_rank(1).narrow(ref)


@pytest.mark.parametrize("rank", [0, -1, 1.0, True, "2", None])
def test_the_rank_is_a_positive_integer(rank):
    with pytest.raises(ValueError, match="low_rank: rank"):
        from_spec({"id": "low_rank", "rank": rank})


@pytest.mark.skipif(numba is None, reason="without numba there is one version")
def test_compiled_and_plain_give_the_same_bits():
    rng = np.random.default_rng(3)
    x, weights = rng.standard_normal((37, 53)).astype(np.float32), rng.standard_normal((3, 37))
    for kernel, args in ((weighted_sum, (x, weights)), (orthonormalize, (weights,))):
        compiled = kernel(*(a.copy() for a in args))
        assert compiled.tobytes() == kernel.py_func(*(a.copy() for a in args)).tobytes()
