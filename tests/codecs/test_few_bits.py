"""sign and ternary: one scale per group, the best one for the L2 error."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, from_spec, sign, ternary
from tests.codecs.sending import encode, relative_error, round_trip

ANY = hnp.arrays(
    np.float32,
    st.integers(0, 20),
    elements=st.floats(-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max), width=32),
)


def test_sign_writes_one_bit_and_the_mean_magnitude():
    tree = {"x": np.array([1, -2, 0, 5], np.float32), "y": np.array([[-3.0]], np.float32)}
    wire = encode(sign(), tree)
    assert wire.sections == (struct.pack("<2f", 2, 3), bytes([0b01001000]))
    out = sign().decode(wire, tree)
    assert out["x"].tolist() == [2, -2, 2, 2]
    assert out["y"].tolist() == [[-3]]
    assert struct.unpack("<f", encode(sign("tree"), tree).sections[0])[0] == np.float32(11 / 5)


def test_sign_groups_do_not_cross_tensors():
    tree = {"x": np.arange(1, 6, dtype=np.float32), "y": np.float32([9, 7])}
    wire = encode(sign(2), tree)
    assert np.frombuffer(wire.sections[0], "<f4").tolist() == [1.5, 3.5, 5, 8]


def test_ternary_writes_two_bits():
    tree = {"x": np.array([4, -6, 1, 0, 0.5], np.float32)}  # threshold 0.7 * 2.3 = 1.61
    wire = encode(ternary(), tree)
    assert wire.sections == (struct.pack("<f", 5), bytes([0b10010000, 0]))
    assert ternary().decode(wire, tree)["x"].tolist() == [5, -5, 0, 0, 0]


@pytest.mark.parametrize("codec", [sign(), sign(3), sign("tree"), ternary(), ternary("tree")])
@given(x=ANY, y=ANY)
@settings(max_examples=50, deadline=None)
def test_never_worse_than_sending_nothing(codec, x, y):
    tree = {"x": x, "y": y, "zeros": np.zeros(2, np.float32)}
    out = round_trip(codec, tree)
    before = sum(float((v.astype(np.float64) ** 2).sum()) for v in tree.values())
    after = sum(float(((out[n].astype(np.float64) - v) ** 2).sum()) for n, v in tree.items())
    # A mean of denormals is rounded by up to half of float32's smallest.
    assert after <= before * (1 + 1e-6) + 100 * 2.0**-298
    assert all(np.isfinite(v).all() for v in out.values())


@pytest.mark.parametrize("codec", [sign(), ternary()])
def test_the_scale_is_the_best_one(codec):
    tree = {"x": np.random.default_rng(0).standard_normal(1000).astype(np.float32)}
    scale, symbols = encode(codec, tree).sections

    def error(factor):
        s = np.float32(struct.unpack("<f", scale)[0] * factor)
        out = codec.decode(Wire((s.tobytes(), symbols)), tree)["x"]
        return np.linalg.norm(out - tree["x"])

    assert error(1) < min(error(0.99), error(1.01))


def test_errors_on_gaussian_values():
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    assert relative_error(sign(), x) == pytest.approx((1 - 2 / np.pi) ** 0.5, abs=0.003)
    assert relative_error(ternary(), x) == pytest.approx(0.438, abs=0.003)


@pytest.mark.parametrize("codec", [sign(), ternary()])
def test_one_magnitude_and_zeros_are_exact(codec):
    for values in ([0.0, 0.0], [3.5, -3.5, 3.5], [1e-45, -1e-45], [3e38, -3e38]):
        tree = {"x": np.array(values, np.float32)}
        assert round_trip(codec, tree)["x"].tolist() == tree["x"].tolist()


@pytest.mark.parametrize("codec", [sign(), ternary()])
def test_refuses_what_no_sender_writes(codec):
    ref = {"x": np.zeros(3, np.float32)}
    for scale in (-1, -0.0, np.nan, np.inf):
        with pytest.raises(WireError, match="scale"):
            codec.decode(Wire((struct.pack("<f", scale), b"\0")), ref)
    for symbols in (b"\x01", b"\x03"):
        with pytest.raises(WireError, match="padded"):
            codec.decode(Wire((bytes(4), symbols)), ref)
    with pytest.raises(WireError, match="above 2"):
        ternary().decode(Wire((bytes(4), b"\xc0")), ref)


@pytest.mark.parametrize("scope", [0, -1, 2.0, True, None, "layer"])
@pytest.mark.parametrize("codec", ["sign", "ternary"])
def test_wrong_scope(codec, scope):
    with pytest.raises(ValueError, match=codec):
        from_spec({"id": codec, "scope": scope})
