"""Every codec against every law. A new codec is one more row of `TABLE`."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import (
    Codec,
    CodecError,
    Wire,
    WireError,
    by_part,
    chain,
    delta,
    entropy,
    error_feedback,
    fedzip,
    fp4,
    fp16,
    fp32,
    from_spec,
    int8,
    kmeans,
    known_ids,
    low_rank,
    modular,
    momentum_correction,
    nf4,
    nonzero,
    random_k,
    register,
    shift,
    sign,
    ternary,
    top_k,
    uniform,
)
from fl_app.codecs.streams.bits import varint
from fl_app.tree import digest
from fl_app.wire.frame import HEADER_BYTES, manifest, pack, unpack
from tests.codecs.sending import encode

SHAPES = [(), (0,), (3, 0), (1,), (2,), (63,), (64,), (65,), (7, 11), (8, 16), (130,), (2, 3, 5)]


@dataclass(frozen=True)
class Row:
    """One codec, what it promises, and how many bytes it takes.

    ``nbytes(n)`` is for a tensor of n values, ``shared(n)`` for what a tree of n values takes once;
    not ``exact`` where it may be less.
    """

    codec: Codec
    bound: Callable[[np.ndarray, np.ndarray], np.ndarray]
    nbytes: Callable[[int], int]
    shared: Callable[[int], int] = lambda n: 0
    exact: bool = True


def float_bound(x, ref):
    return 2.0**-23 * (np.abs(x) + np.abs(ref))


def blockwise_bound(share, block=64, scale="fp32"):
    def bound(x, ref):
        flat = np.abs(x).ravel()
        scales = [flat[i : i + block].max() for i in range(0, flat.size, block)]
        # the scale of a short block is at least 1e-38
        most = np.maximum(np.repeat(scales, block)[: flat.size], 1e-38)
        if scale == "fp16":
            most = most * (1 + 2.0**-10) + 2.0**-24
        elif scale == "int8":  # SHAPES have one group of scales at most
            most = most + most.max(initial=0) / 255
        return (share * most).reshape(x.shape)

    return bound


def scale_bytes(n, block, scale):
    blocks = -(-n // block)
    return {"fp32": 4 * blocks, "fp16": 2 * blocks, "int8": blocks + 4 * -(-blocks // 256)}[scale]


def nf4_bound(block):
    return blockwise_bound(0.15191, block)


def nf4_bytes(block, scale="fp32"):
    return lambda n: -(-n // 2) + scale_bytes(n, block, scale)


def int8_bytes(block, scale="fp32"):
    return lambda n: n + scale_bytes(n, block, scale)


def kept(n, fraction):
    return max(1, round(fraction * n)) if n else 0


def top_k_bound(fraction):
    def bound(x, ref):
        most = np.abs(x)
        k = kept(x.size, fraction)
        return np.minimum(most, np.sort(most, axis=None)[x.size - k]) if k else most

    return bound


def bitmap_bytes(n):
    return -(-n // 8)


def steps_of_largest(share):
    # Steps and scales near 0 are whole multiples of float32's smallest.
    return lambda x, ref: share * np.abs(x).max(initial=0) * (1 + 2.0**-22) + 2.0**-148


def sign_bound(x, ref):
    size = np.abs(x)
    return (
        np.abs(size - (size.mean() if x.size else 0)) + 2.0**-23 * size.max(initial=0) + 2.0**-149
    )


def range_bound(x, ref):
    return np.ptp(np.append(x, 0.0))


def fedzip_bytes(book):
    return lambda n: (book + (4 + n + 2 * n // 3) / 8) * (n > 0)


TABLE = {
    "fp32": Row(fp32(), lambda x, ref: np.zeros_like(x), lambda n: 4 * n),
    "by_part": Row(
        by_part(nf4(), fp32(), names=["model", "control"]), nf4_bound(64), nf4_bytes(64)
    ),
    "fp16": Row(fp16(), lambda x, ref: np.maximum(2.0**-11 * np.abs(x), 2.0**-25), lambda n: 2 * n),
    "nf4": Row(nf4(), nf4_bound(64), nf4_bytes(64)),
    "nf4-16": Row(nf4(block=16), nf4_bound(16), nf4_bytes(16)),
    "nf4-4096": Row(nf4(block=4096), nf4_bound(4096), nf4_bytes(4096)),
    "nf4-fp16": Row(
        nf4(scale="fp16"), blockwise_bound(0.15191, scale="fp16"), nf4_bytes(64, "fp16")
    ),
    "nf4-dq": Row(nf4(scale="int8"), blockwise_bound(0.15191, scale="int8"), nf4_bytes(64, "int8")),
    "fp4": Row(fp4(), blockwise_bound(0.16667), nf4_bytes(64)),
    "fp4-16-dq": Row(
        fp4(16, scale="int8"), blockwise_bound(0.16667, 16, "int8"), nf4_bytes(16, "int8")
    ),
    "int8": Row(int8(), blockwise_bound(0.003938), int8_bytes(64)),
    "int8-16-fp16": Row(
        int8(16, scale="fp16"), blockwise_bound(0.003938, 16, "fp16"), int8_bytes(16, "fp16")
    ),
    "int8-dq": Row(
        int8(scale="int8"), blockwise_bound(0.003938, scale="int8"), int8_bytes(64, "int8")
    ),
    "delta-fp32": Row(chain(delta(), fp32()), float_bound, lambda n: 4 * n),
    "delta-nf4": Row(
        chain(delta(), nf4()),
        lambda x, ref: nf4_bound(64)(x - ref, ref) + float_bound(x, ref),
        nf4_bytes(64),
    ),
    "nested": Row(chain(chain(delta()), chain(fp32())), float_bound, lambda n: 4 * n),
    # Of these the laws see the first message; tests/client/test_memory.py has the others.
    "error_feedback": Row(error_feedback(nf4(), decay=0.9), nf4_bound(64), nf4_bytes(64)),
    "shift": Row(shift(nf4(block=32)), nf4_bound(32), nf4_bytes(32)),
    "momentum_correction": Row(momentum_correction(nf4()), nf4_bound(64), nf4_bytes(64)),
    "top_k": Row(
        chain(top_k(0.05), fp32()),
        top_k_bound(0.05),
        lambda n: 4 * kept(n, 0.05),
        bitmap_bytes,
    ),
    "top_k-tree": Row(
        chain(top_k(0.3, "tree"), fp32()),
        lambda x, ref: np.abs(x),
        lambda n: 0,
        lambda n: bitmap_bytes(n) + 4 * kept(n, 0.3),
    ),
    "delta-top_k-nf4": Row(
        chain(delta(), top_k(0.05), nf4()),
        lambda x, ref: (
            top_k_bound(0.05)(x - ref, ref)
            + np.maximum(0.15191 * np.abs(x - ref).max(initial=0), 1e-38)
            + float_bound(x, ref)
        ),
        lambda n: nf4_bytes(64)(kept(n, 0.05)),
        bitmap_bytes,
    ),
    "nonzero": Row(nonzero(fp32()), lambda x, ref: np.zeros_like(x), lambda n: 4 * n, bitmap_bytes),
    "random_k": Row(
        chain(random_k(0.05), fp32()),
        lambda x, ref: np.abs(x),
        lambda n: 4 * kept(n, 0.05),
        lambda n: 4,
    ),
    "random_k-unbiased": Row(
        chain(random_k(0.05, rescale=True), fp32()),
        lambda x, ref: np.abs(x) * x.size / kept(x.size, 0.05),
        lambda n: 4 * kept(n, 0.05),
        lambda n: 4,
    ),
    "low_rank": Row(
        chain(low_rank(1), fp32()),
        lambda x, ref: np.full_like(x, (1 + 1e-6) * np.linalg.norm(x)),
        # The three shapes of SHAPES that are factored: (8, 16), (7, 11) and (2, 3 x 5).
        lambda n: 4 * {128: 8 + 16, 77: 7 + 11, 30: 2 + 15}.get(n, n),
    ),
    "uniform": Row(
        uniform(error=0.092, scope="tensor"),
        lambda x, ref: 0.092 * np.sqrt((x**2).sum()),
        lambda n: n + 8 * (n > 0),
    ),
    "uniform-middle": Row(
        uniform(error=0.3, centroid=False, scope="tensor"),
        lambda x, ref: 0.3 * np.sqrt((x**2).sum()),
        lambda n: n + 4 * (n > 0),
    ),
    "uniform-grid": Row(
        uniform(error=0.3, scope="tensor", grid=True),
        lambda x, ref: 0.3 * np.sqrt((x**2).sum()),
        lambda n: n + 8 * (n > 0),
    ),
    "uniform-tree": Row(
        uniform(error=0.5), lambda x, ref: np.inf, lambda n: n, lambda n: 8 * (n > 0)
    ),
    "uniform-dither": Row(
        uniform(error=0.3, dither=True, scope="tensor"),
        lambda x, ref: 0.3 * np.sqrt((x**2).sum()),
        lambda n: n + 4 * (n > 0),
        lambda n: 4,
    ),
    "uniform-adaptive": Row(
        uniform(adaptive=True, scope="tensor"),
        steps_of_largest(2 / 3),
        lambda n: n + 8 * (n > 0),
    ),
    "uniform-8": Row(
        uniform(bits=8, scope="tensor"), steps_of_largest(1 / 127), lambda n: n + 8 * (n > 0)
    ),
    "uniform-4": Row(
        uniform(bits=4, scope="tensor"),
        steps_of_largest(1 / 7),
        lambda n: 8 * (n > 0),
        lambda n: -(-n // 2),
    ),
    "uniform-2-dither": Row(
        uniform(bits=2, dither=True, scope="tensor"),
        steps_of_largest(1),
        lambda n: 4 * (n > 0),
        lambda n: 4 + -(-n // 4),
    ),
    "modular": Row(
        modular(clip=6e4, bits=16, clients=5, max_weight=7),
        lambda x, ref: 6e4 / 65534 + 2.0**-24 * np.abs(x),
        lambda n: 0,
        lambda n: -(-22 * (n + 1) // 8),
    ),
    "modular-wide": Row(
        modular(clip=6e4, bits=24, clients=100, max_weight=1000),
        lambda x, ref: 6e4 / (2**24 - 2) + 2.0**-24 * np.abs(x),
        lambda n: 0,
        lambda n: -(-41 * (n + 1) // 8),
    ),
    "sign": Row(sign(), sign_bound, lambda n: 4 * (n > 0), bitmap_bytes),
    "sign-norm": Row(sign(scale="norm"), steps_of_largest(1), lambda n: 4 * (n > 0), bitmap_bytes),
    "sign-one": Row(
        sign(scale="one"), lambda x, ref: np.abs(np.abs(x) - 1), lambda n: 0, bitmap_bytes
    ),
    "sign-7": Row(sign(7), steps_of_largest(1), lambda n: 4 * -(-n // 7), bitmap_bytes),
    "ternary": Row(ternary(), steps_of_largest(1), lambda n: 4 * (n > 0), lambda n: -(-n // 4)),
    "kmeans": Row(
        kmeans(), lambda x, ref: np.inf, lambda n: 0, lambda n: 64 * (n > 0) + -(-n // 2)
    ),
    "kmeans-3-tensor": Row(
        kmeans(3, "tensor"),
        lambda x, ref: np.ptp(x) if x.size else 0,
        lambda n: 12 * (n > 0),
        lambda n: -(-n // 4),
    ),
    "fedzip": Row(fedzip(), range_bound, fedzip_bytes(8), lambda n: 7 / 8, exact=False),
    "fedzip-free": Row(
        fedzip(0.3, pinned=False), range_bound, fedzip_bytes(12), lambda n: 7 / 8, exact=False
    ),
    "fedzip-tree": Row(
        fedzip(scope="tree"),
        lambda x, ref: np.inf,
        lambda n: 0,
        lambda n: fedzip_bytes(8)(n) + 7 / 8,
        exact=False,
    ),
    "entropy-uniform": Row(
        entropy(uniform(error=0.092, scope="tensor")),
        lambda x, ref: 0.092 * np.sqrt((x**2).sum()),
        lambda n: n + 8 * (n > 0),
        lambda n: 2,
        exact=False,
    ),
    "entropy-context": Row(
        entropy(uniform(error=0.3, scope="tensor"), context=True),
        lambda x, ref: 0.3 * np.sqrt((x**2).sum()),
        lambda n: n + 8 * (n > 0),
        lambda n: 2,
        exact=False,
    ),
    "entropy-nf4": Row(entropy(nf4()), nf4_bound(64), nf4_bytes(64), lambda n: 2, exact=False),
    "entropy-link": Row(
        chain(entropy(top_k(0.05)), fp32()),
        top_k_bound(0.05),
        lambda n: 4 * kept(n, 0.05),
        lambda n: 1 + bitmap_bytes(n),
        exact=False,
    ),
}


@pytest.fixture(params=list(TABLE), name="row")
def _row(request) -> Row:
    return TABLE[request.param]


def fixed_tree(salt: int, shapes=SHAPES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(salt)
    return {
        f"t{i}": np.asarray(rng.standard_normal(shape), np.float32)
        for i, shape in enumerate(shapes)
    }


values = st.floats(-6e4, 6e4, width=32, allow_subnormal=True)


@st.composite
def trees(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), max_size=3))
    pair = [
        {f"t{i}": draw(hnp.arrays(np.float32, s, elements=values)) for i, s in enumerate(shapes)}
        for _ in range(2)
    ]
    return pair[0], pair[1]


@pytest.mark.parametrize("name", TABLE)
@given(pair=trees())
@settings(max_examples=25, deadline=None)
def test_round_trip_stays_within_the_stated_bound(name, pair):
    row, (tree, ref) = TABLE[name], pair
    out = row.codec.decode(encode(row.codec, tree, ref), ref)
    assert list(out) == list(tree)
    for key, x in tree.items():
        assert out[key].shape == x.shape
        error = np.abs(out[key].astype(np.float64) - x)
        assert np.all(error <= row.bound(x.astype(np.float64), ref[key].astype(np.float64)))


def test_every_shape_alone_and_the_empty_tree(row):
    for shapes in [[], *[[s] for s in SHAPES], SHAPES]:
        tree, ref = fixed_tree(1, shapes), fixed_tree(2, shapes)
        wire = encode(row.codec, tree, ref)
        sizes = [x.size for x in tree.values()]
        nbytes = row.shared(sum(sizes)) + sum(row.nbytes(n) for n in sizes)
        assert wire.nbytes == nbytes or (wire.nbytes < nbytes and not row.exact)
        assert len(wire.sections) == row.codec.sections
        assert not wire.rest
        out = row.codec.decode(wire, ref)
        assert [(k, v.shape) for k, v in out.items()] == [(k, v.shape) for k, v in tree.items()]


def test_output_is_float32_writable_and_inputs_are_untouched(row):
    tree, ref = fixed_tree(1), fixed_tree(2)
    before = digest(tree), digest(ref)
    out = row.codec.decode(encode(row.codec, tree, ref), ref)
    for name, x in out.items():
        assert isinstance(x, np.ndarray)
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert x.flags.writeable
        assert not np.shares_memory(x, ref[name])
        x += 1
    assert (digest(tree), digest(ref)) == before


def test_spec_survives_json_and_builds_the_same_codec(row):
    spec = row.codec.spec
    assert json.loads(json.dumps(spec)) == spec
    again = from_spec(json.loads(json.dumps(spec)))
    assert again.spec == spec
    assert again.fingerprint == row.codec.fingerprint
    tree, ref = fixed_tree(1), fixed_tree(2)
    assert encode(again, tree, ref).sections == encode(row.codec, tree, ref).sections


def test_deterministic(row):
    tree, ref = fixed_tree(1), fixed_tree(2)
    assert encode(row.codec, tree, ref).sections == encode(row.codec, tree, ref).sections


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 63, 64, 69])
def test_refuses_nan_and_inf_and_names_the_tensor(row, bad, at):
    tree, ref = fixed_tree(1, [(3,), (10, 7)]), fixed_tree(2, [(3,), (10, 7)])
    tree["t1"].reshape(-1)[at] = bad
    with pytest.raises(CodecError, match=r"'t1'.*NaN or Inf"):
        encode(row.codec, tree, ref)


def test_refuses_a_tree_that_is_not_the_references(row):
    ref = fixed_tree(2, [(3,), (4, 2)])
    good = fixed_tree(1, [(3,), (4, 2)])
    cases = {
        "missing.*t1": {"t0": good["t0"]},
        "unknown.*t2": {**good, "t2": good["t0"]},
        "order": {"t1": good["t1"], "t0": good["t0"]},
        "'t0' has dtype float64": {**good, "t0": good["t0"].astype(np.float64)},
        "'t0' has dtype >f4": {**good, "t0": good["t0"].astype(">f4")},
        "'t1' has shape": {**good, "t1": good["t1"].T.copy()},
        "'t1' is not C-contiguous": {**good, "t1": np.asfortranarray(good["t1"])},
        "'t0' is a list": {**good, "t0": [1.0, 2.0, 3.0]},
    }
    for message, tree in cases.items():
        with pytest.raises(CodecError, match=message):
            encode(row.codec, tree, ref)


def test_decode_refuses_sections_of_another_size(row):
    tree, ref = fixed_tree(1), fixed_tree(2)
    sections = encode(row.codec, tree, ref).sections
    for i, section in enumerate(sections):
        for other in {section[:-1], section + b"\0", b"", section * 2} - {section}:
            changed = (*sections[:i], other, *sections[i + 1 :])
            with pytest.raises(WireError):
                row.codec.decode(Wire(changed), ref)
    for changed in (sections[:-1], (*sections, b""), ()):
        with pytest.raises(WireError, match="sections"):
            row.codec.decode(Wire(changed), ref)


@pytest.mark.parametrize("name", TABLE)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_decode_of_random_sections_is_a_finite_tree_or_a_wire_error(name, data):
    codec, ref = TABLE[name].codec, fixed_tree(2, [(65,), ()])
    honest = encode(codec, ref, ref).sections
    sections = tuple(data.draw(st.binary(min_size=len(s), max_size=len(s))) for s in honest)
    try:
        out = codec.decode(Wire(sections), ref)
    except WireError:
        return
    assert all(np.isfinite(x).all() for x in out.values())


def test_frame_round_trip(row):
    tree, ref = fixed_tree(1), fixed_tree(2)
    wire = encode(row.codec, tree, ref)
    frame = pack(wire, row.codec, manifest(ref))
    lengths = sum(len(varint(len(section))) for section in wire.sections[:-1])
    assert len(frame) == wire.nbytes + HEADER_BYTES + lengths
    got = unpack(frame, row.codec, manifest(ref))
    assert got.sections == wire.sections
    assert digest(row.codec.decode(got, ref)) == digest(row.codec.decode(wire, ref))


def test_memory_of_a_decode_is_bounded_by_the_tree(row):
    ref = fixed_tree(2, [(1000, 100)])
    wire = encode(row.codec, ref, ref)
    row.codec.decode(wire, ref)  # compiled kernels are not the decode's memory
    hostile = Wire((*wire.sections[:-1], wire.sections[-1] + b"\0"))
    tracemalloc.start()
    row.codec.decode(wire, ref)
    _, honest = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    with pytest.raises(WireError):
        row.codec.decode(hostile, ref)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    memory = ref["t0"].nbytes if row.codec.receive else 0  # decode begins with a fresh one
    assert honest <= 2.1 * ref["t0"].nbytes + memory + 50_000
    assert peak <= honest + 4096  # the error itself


# --- single codecs --------------------------------------------------------------------------------


def test_fp32_keeps_every_bit():
    bits = np.array([0, 1, 0x80000000, 0x80000001, 0x007FFFFF, 0x7F7FFFFF, 0x3F800001], np.uint32)
    tree = {"x": bits.view(np.float32)}
    assert digest(fp32().decode(encode(fp32(), tree, tree), tree)) == digest(tree)


@pytest.mark.parametrize("codec", [fp32(), fp16()], ids=["fp32", "fp16"])
def test_floats_refuse_nan_on_the_wire(codec):
    ref = {"x": np.ones(3, np.float32)}
    size = len(encode(codec, ref, ref).sections[0])
    with pytest.raises(WireError, match="NaN"):
        codec.decode(Wire((b"\xff" * size,)), ref)


def test_fp16_refuses_what_it_cannot_hold():
    at_most = {"x": np.array([65519, -65519], np.float32)}
    assert fp16().decode(encode(fp16(), at_most, at_most), at_most)["x"].tolist() == [65504, -65504]
    beyond = {"x": np.array([1, 65520], np.float32)}
    with pytest.raises(CodecError, match=r"'x'.*fp16's range"):
        encode(fp16(), beyond, beyond)


@pytest.mark.parametrize("last", [fp32(), fp16(), nf4()], ids=["fp32", "fp16", "nf4"])
def test_no_change_decodes_to_the_reference_bit_for_bit(last):
    codec = chain(delta(), last)
    ref = fixed_tree(2) | {"zeros": np.array([0.0, -0.0, 1e-45, -3e38], np.float32)}
    assert digest(codec.decode(encode(codec, ref, ref), ref)) == digest(ref)


def test_delta_refuses_a_change_beyond_float32():
    codec = chain(delta(), fp32())
    x, ref = {"x": np.full(2, 3e38, np.float32)}, {"x": np.full(2, -3e38, np.float32)}
    with pytest.raises(CodecError, match="'x'"):
        encode(codec, x, ref)
    with pytest.raises(WireError, match="'x'"):
        codec.decode(encode(fp32(), x, x), x)


# --- composition and specs ------------------------------------------------------------------------


def test_chain_wants_one_terminal_link_at_its_end():
    with pytest.raises(ValueError, match="at least one"):
        chain()
    with pytest.raises(ValueError, match="'fp32' leaves no rest"):
        chain(fp32(), delta())
    with pytest.raises(ValueError, match="must be a codec"):
        chain(fp32)
    assert not chain(delta()).terminal
    assert chain(delta(), fp32()).terminal


def test_the_state_of_a_chain_is_its_links():
    ref = fixed_tree(2, [(3,)])
    codec = chain(delta(), nf4())
    state = codec.init(ref)
    assert state == ((), ())
    _, after = codec.encode(ref, state, ref)
    assert after == ((), ())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"id": "nope"}, "unknown codec id 'nope'; known: .*fp32.*nf4"),
        ({"id": "nf4", "blok": 64}, "no argument 'blok'; accepted: block"),
        ({"id": "fp32", "block": 64}, "no argument 'block'; accepted: none"),
        ({"id": "chain", "links": {"id": "fp32"}}, "links must be a list"),
        ({"id": "chain", "links": "fp32"}, "links must be a list"),
        ({"id": "chain", "links": [3]}, "mapping with an 'id'"),
        ({"id": "chain", "links": []}, "at least one link"),
        ({"id": "chain"}, "at least one link"),
        ({"id": ["fp32"]}, "mapping with an 'id'"),
        ({"block": 64}, "mapping with an 'id'"),
        ("fp32", "mapping with an 'id'"),
        (None, "mapping with an 'id'"),
        *[({"id": "nf4", "block": b}, "nf4: block") for b in (0, 8, 48, -64, 64.0, "64", True)],
        ({"id": "nf4", "block": {"id": "fp32"}}, "nf4: block"),
        ({"id": "nf4", "block": None}, "nf4: block"),
    ],
)
def test_a_wrong_spec_says_what_is_accepted(spec, message):
    with pytest.raises(ValueError, match=message):
        from_spec(spec)


def test_defaults_are_written_into_the_spec():
    assert from_spec({"id": "nf4"}).spec == {"id": "nf4", "block": 64, "scale": "fp32"}
    assert nf4(16).spec == nf4(block=16).spec == {"id": "nf4", "block": 16, "scale": "fp32"}


def test_an_id_is_given_once():
    with pytest.raises(ValueError, match="already registered"):
        register("fp32")(fp32)
    assert known_ids() == sorted(known_ids())


def test_fingerprints_tell_codecs_apart():
    prints = {row.codec.fingerprint for row in TABLE.values()}
    assert len(prints) == len(TABLE)
    assert all(len(p) == 8 for p in prints)


def test_digest_sees_names_shapes_order_and_bits():
    a, b = np.zeros(4, np.float32), np.ones(4, np.float32)
    trees_ = [
        {},
        {"a": a},
        {"b": a},
        {"a": a.reshape(2, 2)},
        {"a": a[:0]},
        {"a": a[:0].reshape(0, 2)},
        {"a": -a},
        {"a": a, "b": b},
        {"b": b, "a": a},
    ]
    assert len({digest(t) for t in trees_}) == len(trees_)
    assert manifest(trees_[-1]).hex() == digest(trees_[-1])[:16]
    with pytest.raises(ValueError, match="float64"):
        digest({"a": np.zeros(2)})
