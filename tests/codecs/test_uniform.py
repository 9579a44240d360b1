"""Uniform quantization: the error it is asked for, at rates near the bound, whatever the values."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, from_spec, uniform
from fl_app.codecs.parts import zigzag
from fl_app.codecs.parts.uniform_step import LARGEST
from fl_app.codecs.streams.bits import unpack
from tests.codecs.sending import encode, round_trip

ANY = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-LARGEST, LARGEST, width=32))


def gaussian(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal(n).astype(np.float32)}


def norm(tree, other=None) -> float:
    total = 0.0
    for name, x in tree.items():
        y = x.astype(np.float64) - (0.0 if other is None else other[name])
        total += float((y**2).sum())
    return math.sqrt(total)


def entropy(codec, tree) -> float:
    """Bits a value of an ideal order-0 coder."""
    wire, at = encode(codec, tree), [s.count for s in codec.streams(tree)].index(tree["x"].size)
    counts = np.bincount(unpack(wire.sections[at], codec.streams(tree)[at].bits))
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


# --- the error ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"dither": True}, {"centroid": False}])
@pytest.mark.parametrize("scope", ["tree", "tensor"])
@given(x=ANY, y=ANY, error=st.sampled_from([1e-4, 0.01, 0.092, 0.5, 0.99]))
@example(x=np.full(3, LARGEST, np.float32), y=np.full(2, -LARGEST, np.float32), error=0.99)
@example(x=np.array([1, 3, -5], np.float32) * 2.0**-149, y=np.zeros(1, np.float32), error=0.5)
@example(x=np.array([1e38, 1e-45, 1, -1], np.float32), y=np.ones(2, np.float32), error=1e-4)
@settings(max_examples=60, deadline=None)
def test_the_error_is_never_above_the_one_asked_for(how, scope, x, y, error):
    tree = {"x": x, "y": y}
    out = round_trip(uniform(error=error, **how, scope=scope), tree)
    assert all(np.isfinite(value).all() for value in out.values())
    parts = [tree] if scope == "tree" else [{name: tree[name]} for name in tree]
    for part in parts:
        assert norm(part, out) <= error * norm(part)


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("error", [1e-4, 0.003, 0.092, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_error_is_almost_the_one_asked_for(error, heavy, dither):
    tree = gaussian(100_000)
    if heavy:
        tree["x"] **= 3
    out = round_trip(uniform(error=error, dither=dither), tree)
    assert 0.99 * error <= norm(tree, out) / norm(tree) <= error


def test_an_outlier_and_a_tiny_error():
    tree = gaussian(100_000) | {"y": np.array([1e30], np.float32)}
    out = round_trip(uniform(error=1e-4), tree)
    assert norm(tree, out) <= 1e-4 * norm(tree)
    own = round_trip(uniform(error=1e-4, scope="tensor"), tree)
    assert norm({"x": tree["x"]}, own) <= 1e-4 * norm({"x": tree["x"]})


@pytest.mark.parametrize(
    ("error", "gauss", "laplace"),
    [(0.092, 3.705, 3.595), (0.3, 2.005, 1.855), (0.5, 1.26, 1.05), (0.6, 0.98, 0.752)],
)
def test_the_rate_is_near_the_bound(error, gauss, laplace):
    tree, rng = gaussian(300_000), np.random.default_rng(0)
    assert math.log2(1 / error) < entropy(uniform(error=error), tree) < gauss
    tree["x"] = rng.laplace(size=300_000).astype(np.float32)
    assert entropy(uniform(error=error), tree) < laplace


def test_the_shift_never_makes_it_worse():
    for bits in (2, 3, 5):
        tree = gaussian(10_000)
        wire = encode(uniform(bits=bits), tree)
        step, shift = struct.unpack("<2f", wire.sections[0])
        flat = Wire((struct.pack("<2f", step, 0), *wire.sections[1:]))
        codec = uniform(bits=bits)
        assert 0 < shift < 0.5
        assert norm(tree, codec.decode(wire, tree)) < norm(tree, codec.decode(flat, tree))


def test_without_the_centroid_values_are_multiples_of_the_step():
    x = {"x": np.random.default_rng(5).standard_normal(10_000).astype(np.float32)}
    codec = uniform(error=0.5, centroid=False)
    wire, _ = codec.encode(x, codec.init(x), x)
    assert len(wire.sections[0]) == 4
    step = np.frombuffer(wire.sections[0], "<f4")[0]
    out = codec.decode(wire, x)["x"]
    assert np.array_equal(out, np.rint(x["x"] / step) * step)
    assert 0.495 <= norm(x, {"x": out}) / norm(x) <= 0.5


def test_zeros_are_exact_and_have_no_step():
    tree = {"x": np.zeros(9, np.float32), "y": np.ones(2, np.float32)}
    for how in ({"error": 0.1}, {"bits": 4}, {"adaptive": True}):
        for dither in (False, True):
            codec = uniform(**how, dither=dither, scope="tensor")
            wire = encode(codec, tree)
            assert wire.sections[0][:4] == bytes(4)
            assert not codec.decode(wire, tree)["x"].view(np.uint32).any()


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@given(x=ANY)
@settings(max_examples=30, deadline=None)
def test_levels_fit_the_bits(bits, dither, x):
    tree, codec = {"x": x}, uniform(bits=bits, dither=dither)
    wire = encode(codec, tree)
    out = codec.decode(wire, tree)["x"].astype(np.float64)
    levels = 2 ** (bits - 1) - 1 - 0.5 * dither
    step = np.abs(x).max(initial=0).astype(np.float64) / levels
    assert np.all(np.abs(out - x) <= step * (1 + 2.0**-20) + 2.0**-148)
    symbols = unpack(wire.sections[-1], codec.streams(tree)[-1].bits)
    assert symbols.max(initial=0) <= 2**bits - 2


@pytest.mark.parametrize(("bits", "packed"), [(2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_small_levels_are_packed(bits, packed):
    wire = encode(uniform(bits=bits), gaussian(1001))
    assert [len(s) for s in wire.sections] == [8, -(-1001 * packed // 8)]


@pytest.mark.parametrize("cubed", [False, True])
def test_aquila_takes_the_bits_that_the_values_need(cubed):
    x = gaussian(10_000)["x"] ** (3 if cubed else 1)
    peak = float(np.abs(x).max())
    bits = math.ceil(math.log2(peak * math.sqrt(x.size) / norm({"x": x}) + 1))
    assert bits == (5 if cubed else 3)
    for scale in (1, 1e-30, 1e30):
        tree, codec = {"x": x * np.float32(scale)}, uniform(adaptive=True)
        wire = encode(codec, tree)
        step = struct.unpack("<f", wire.sections[0][:4])[0]
        assert step == pytest.approx(2 * peak * scale / (2**bits - 1), rel=1e-6)
        assert max(wire.sections[1]) <= 2**bits - 2
        assert wire.sections[2] == b""


# --- dither ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"error": 0.5}, {"bits": 2}, {"adaptive": True}])
def test_the_mean_over_draws_is_the_value(how):
    copies, messages = 20, 100
    codec, draws = uniform(**how, dither=True), copies * messages
    tree = {"x": np.tile(gaussian(200)["x"], (copies, 1))}  # every copy has draws of its own
    state, mean, square = codec.init(tree), np.zeros(200), 0.0
    for _ in range(messages):
        wire, state = codec.encode(tree, state, tree)
        error = codec.decode(wire, tree)["x"].astype(np.float64) - tree["x"]
        mean += error.sum(axis=0) / draws
        square += float((error**2).mean()) / messages
    step = struct.unpack("<f", wire.sections[0])[0]
    assert np.abs(mean).max() < 5 * step / math.sqrt(12 * draws)
    if "error" not in how:  # where the step does not depend on the draw
        assert square == pytest.approx(step**2 / 12, rel=0.02)


def test_every_message_has_its_own_draw():
    codec, tree = uniform(error=0.3, dither=True), gaussian(50)
    first, state = codec.encode(tree, codec.init(tree, 7), tree)
    second, state = codec.encode(tree, state, tree)
    assert state.tolist() == [7, 2]
    assert len(first.sections[1]) == 4
    assert first.sections[1] != second.sections[1]
    assert encode(codec, tree, seed=7).sections == first.sections


# --- the wire -------------------------------------------------------------------------------------


def test_levels_as_bytes_with_escapes():
    levels = np.array([0, -1, 1, -2, 2, 127, -128, 128, -129, 2**29, -(2**29)], np.int32)
    symbols, escapes = zigzag.encode(levels)
    assert symbols.tolist() == [0, 1, 2, 3, 4, 254, 255, 255, 255, 255, 255]
    assert escapes.tolist() == [0, 1, 2, 2**30 - 255, 2**30 - 256]
    assert zigzag.escaped(escapes).tolist() == levels[6:].tolist()
    assert zigzag.LEVELS[symbols[:6]].tolist() == levels[:6].tolist()


def test_decoded_is_step_times_level_less_shift():
    codec, ref = uniform(error=0.1), {"x": np.zeros(5, np.float32)}
    sections = (struct.pack("<2f", 0.5, 0.25), bytes([0, 1, 2, 4, 255]), struct.pack("<I", 1))
    out = codec.decode(Wire(sections), ref)["x"]
    assert out.tolist() == [0, -0.375, 0.375, 0.875, 0.5 * 127.75]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ((struct.pack("<2f", -1, 0), b"\0\0", b""), "negative"),
        ((struct.pack("<2f", math.inf, 0), b"\0\0", b""), "Inf"),
        ((struct.pack("<2f", 1, 0.6), b"\0\0", b""), "shift"),
        ((struct.pack("<2f", 1, math.nan), b"\0\0", b""), "shift"),
        ((struct.pack("<2f", 1, 0), b"\0\xff", b""), "large levels"),
        ((struct.pack("<2f", 1, 0), b"\0\0", bytes(4)), "large levels"),
        ((struct.pack("<2f", 1, 0), b"\0\xff", bytes(3)), "large levels"),
        ((struct.pack("<2f", 1e38, 0), b"\0\xfe", b""), "beyond float32"),
        ((struct.pack("<2f", 1e30, 0), b"\0\xff", b"\xff" * 4), "beyond float32"),
    ],
)
def test_refuses_what_no_sender_writes(sections, message):
    with pytest.raises(WireError, match=message):
        uniform(error=0.1).decode(Wire(sections), {"x": np.zeros(2, np.float32)})


def test_refuses_symbols_and_padding_without_a_meaning():
    ref, header = {"x": np.zeros(3, np.float32)}, struct.pack("<2f", 1, 0)
    for bits, packed in ((2, b"\xc0"), (2, b"\x01"), (4, b"\xf0\x00"), (4, b"\x00\x01")):
        with pytest.raises(WireError, match="symbol"):
            uniform(bits=bits).decode(Wire((header, packed)), ref)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"error": 0.1, "bits": 4},
        {"bits": 4, "adaptive": True},
        *[{"error": e} for e in (0.0, 1.0, 1, -0.1, 1e-5, math.nan, "0.1", True)],
        *[{"bits": b} for b in (1, 9, 4.0, "4", True)],
        {"error": 0.1, "dither": 1},
        {"adaptive": 1},
        {"error": 0.1, "scope": "layer"},
        {"error": 0.1, "scope": 64},
    ],
)
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="uniform: "):
        from_spec({"id": "uniform", **arguments})
