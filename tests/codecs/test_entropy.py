"""The entropy stage: what inner wrote comes back, in fewer bytes, and nothing else gets through."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from fl_app.codecs import (
    Codec,
    CodecError,
    Stream,
    Wire,
    WireError,
    chain,
    delta,
    entropy,
    error_feedback,
    fp16,
    fp32,
    from_spec,
    nf4,
    receive,
    shift,
    ternary,
    top_k,
    uniform,
)
from fl_app.codecs.base import stateless
from fl_app.codecs.entropy import BESIDE
from fl_app.codecs.streams import mixing
from fl_app.codecs.streams.bits import varint
from fl_app.tree import digest
from tests.codecs.sending import encode

INNER = {
    "fp32": fp32(),
    "nf4": nf4(),
    "uniform": uniform(error=0.3),
    "escapes": uniform(error=0.001),
    "bits": uniform(bits=3),
    "ternary": ternary(),
    "levels": chain(delta(), top_k(0.5), uniform(error=0.3)),
    "top_k": chain(delta(), top_k(0.1), nf4()),
    "fp16": chain(delta(), fp16()),
    "twice": entropy(uniform(error=0.3)),
    "feedback": error_feedback(chain(top_k(0.1), fp16())),
    "shift": shift(uniform(error=0.3)),
}


def normal(salt: int, shapes=((40, 30), (7,), (), (0,), (129,))) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(salt)
    return {
        f"t{i}": np.asarray(rng.standard_normal(s) * 4.0**-i, np.float32)
        for i, s in enumerate(shapes)
    }


@pytest.fixture(params=list(INNER), name="inner")
def _inner(request) -> Codec:
    return INNER[request.param]


@pytest.fixture(params=[False, True], ids=["", "context"], name="context")
def _context(request) -> bool:
    return request.param


def test_nothing_is_lost_and_little_added(inner, context):
    codec = entropy(inner, context)
    for shapes in [(), ((),), ((0,),), ((3,),), ((40, 30), (7,), (), (0,), (129,))]:
        tree, ref = normal(1, shapes), normal(2, shapes)
        plain, coded = encode(inner, tree, ref), encode(codec, tree, ref)
        assert coded.nbytes <= plain.nbytes + inner.sections
        assert digest(codec.decode(coded, ref)) == digest(inner.decode(plain, ref))
        for section, stream in zip(coded.sections, codec.streams(ref), strict=True):
            assert stream.variable
            assert len(section) <= stream.nbytes


def test_state_and_the_receivers_memory_are_inners(inner):
    codec, ref = entropy(inner), normal(2)
    assert codec.remembers == inner.remembers
    assert codec.sections == inner.sections
    assert (codec.receive is None) == (inner.receive is None)
    states = [codec.init(ref, 5), inner.init(ref, 5)]
    memories = [codec.init_receiver(ref), inner.init_receiver(ref)]
    for salt in range(3):
        got = []
        for i, c in enumerate((codec, inner)):
            wire, states[i] = c.encode(normal(salt), states[i], ref)
            tree, memories[i] = receive(c, wire, ref, memories[i])
            got.append(digest(tree))
        assert got[0] == got[1]


def test_a_link_keeps_its_rest_and_its_narrowed_reference():
    codec, plain = chain(entropy(top_k(0.1)), nf4()), chain(top_k(0.1), nf4())
    tree, ref = normal(1), normal(2)
    assert not entropy(top_k(0.1)).terminal
    coded = encode(codec, tree, ref)
    assert coded.nbytes < encode(plain, tree, ref).nbytes
    assert coded.sections[1:] == encode(plain, tree, ref).sections[1:]
    assert digest(codec.decode(coded, ref)) == digest(plain.decode(encode(plain, tree, ref), ref))


def test_spec_and_arguments():
    spec = {"id": "entropy", "inner": {"id": "chain", "links": [{"id": "delta"}, {"id": "fp32"}]}}
    assert from_spec(spec).spec == spec
    assert from_spec({**spec, "context": False}).spec == spec  # as before there was a context
    assert from_spec({**spec, "context": True}).spec == {**spec, "context": True}
    with pytest.raises(ValueError, match="context must be true or false, got 1"):
        entropy(fp32(), 1)
    with pytest.raises(ValueError, match="inner must be a codec, got 'fp32'"):
        entropy("fp32")
    with pytest.raises(CodecError, match=r"'t0'.*NaN"):
        encode(entropy(fp32()), {"t0": np.full(3, np.nan, np.float32)}, normal(0, ((3,),)))


def test_rates_on_gaussian_values():
    tree = {"x": np.random.default_rng(0).standard_normal(200_000).astype(np.float32)}
    for codec, limit, off in [
        (uniform(error=0.092), 3.75, 0.092),
        (uniform(error=0.5), 1.35, 0.5),
        (nf4(), 4.27, 0.095),
        (chain(top_k(0.05), nf4()), 0.52, 0.9),
    ]:
        wire = encode(entropy(codec), tree, tree)
        assert 8 * wire.nbytes <= limit * tree["x"].size
        error = entropy(codec).decode(wire, tree)["x"] - tree["x"]
        assert np.linalg.norm(error) <= off * np.linalg.norm(tree["x"])


def structured(salt: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A tree and its reference, whose tensors, rows and columns differ in scale.

    Values are larger where the reference is, and lean to the opposite sign.
    """
    rng = np.random.default_rng(salt)
    ref, tree = {}, {}
    for i, shape in enumerate([(8, 128), (128, 8), (8, 128), (96,)]):
        rows = np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        ref[f"t{i}"] = (rows * rng.standard_normal(shape)).astype(np.float32)
        noise = rows * rng.standard_normal(shape) * np.exp(0.5 * rng.standard_normal(shape[-1]))
        tree[f"t{i}"] = (2.0**-i * noise - 0.4 * ref[f"t{i}"]).astype(np.float32)
    return tree, ref


@pytest.mark.parametrize("inner", [uniform(error=0.5), uniform(error=0.2), ternary()])
def test_context_saves_where_there_is_structure_and_costs_nothing_elsewhere(inner):
    for salt in range(3):
        tree, ref = structured(salt)
        assert (
            encode(entropy(inner, True), tree, ref).nbytes
            < 0.96 * encode(entropy(inner), tree, ref).nbytes
        )
        tree, ref = ({"x": normal(s, ((90, 90),))["t0"]} for s in (salt, 9))
        assert (
            encode(entropy(inner, True), tree, ref).nbytes
            <= encode(entropy(inner), tree, ref).nbytes
        )


@pytest.mark.parametrize("shape", [(6, 256), (256, 6), (24, 96)])
@pytest.mark.parametrize("scale", [1, 1e-6])
def test_lines_that_lean_on_each_other_cost_less(shape, scale):
    """A matrix of rank 1 and as much noise: signs of a line follow from those before it."""
    codec, inner = entropy(uniform(error=0.45), True), uniform(error=0.45)
    for salt in range(3):
        rng = np.random.default_rng(salt)
        left, right, noise = (rng.standard_normal(s) for s in (shape[0], shape[1], shape))
        ref = {"x": rng.standard_normal(shape).astype(np.float32)}
        tree = {"x": (scale * (np.outer(left, right) + 0.5 * noise)).astype(np.float32)}
        wire, plain = encode(codec, tree, ref), encode(inner, tree, ref)
        assert wire.sections[1][0] == BESIDE
        symbols = np.frombuffer(plain.sections[1], np.uint8)
        without = mixing.encode(symbols, [ref["x"]], 256, beside=False)
        assert len(wire.sections[1]) < 0.97 * len(without)
        assert digest(codec.decode(wire, ref)) == digest(inner.decode(plain, ref))


@given(data=st.data(), beside=st.booleans(), alphabet=st.sampled_from([4, 16, 256]))
@settings(max_examples=60, deadline=None)
def test_mixed_symbols_come_back(data, beside, alphabet):
    """Of any shape and any levels, also those that drive every weight to one side."""
    shape = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
    shapes = data.draw(st.lists(shape, max_size=3))
    tensors = normal(data.draw(st.integers(0, 9)), tuple(shapes))
    size = sum(x.size for x in tensors.values())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    most = data.draw(st.integers(1, alphabet - 1))
    symbols = (rng.integers(0, most + 1, size) // data.draw(st.integers(1, 3))).astype(np.uint8)
    coded = mixing.encode(symbols, list(tensors.values()), alphabet, beside)
    if coded is not None:
        back = mixing.decode(coded, list(tensors.values()), alphabet, beside)
        assert np.array_equal(back, symbols)


# --- hostile --------------------------------------------------------------------------------------


def echo(stream: Stream) -> Codec:
    """One section as it is, whatever the values: the stage's own checks, and no other."""

    def decode(wire, ref):
        assert len(wire.sections[0]) <= stream.nbytes
        return {}

    return Codec(
        stateless,
        lambda tree, state, ref: (Wire((tree,)), state),
        decode,
        1,
        lambda ref: (stream,),
        spec={"id": "echo"},
    )


def outcome(codec: Codec, sections, ref) -> str | None:
    try:
        out = codec.decode(Wire(tuple(sections)), ref)
    except WireError:
        return None
    assert all(np.isfinite(x).all() for x in out.values())
    return digest(out)


def test_truncations_and_flipped_bits(inner, context):
    codec, ref = entropy(inner, context), normal(2)
    honest = encode(codec, normal(1), ref).sections
    for i, section in enumerate(honest):
        for end in range(max(0, len(section) - 60), len(section)):
            assert outcome(codec, (*honest[:i], section[:end], *honest[i + 1 :]), ref) is None
        for bit in range(0, 8 * len(section), max(1, len(section) // 50)):
            changed = bytearray(section)
            changed[bit // 8] ^= 1 << bit % 8
            outcome(codec, (*honest[:i], bytes(changed), *honest[i + 1 :]), ref)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_random_sections(data):
    inner = INNER[data.draw(st.sampled_from(list(INNER)))]
    codec, ref = entropy(inner, data.draw(st.booleans())), normal(2, ((5, 8), (3,)))
    sections = [
        bytes([data.draw(st.integers(0, 9))]) + data.draw(st.binary(max_size=40))
        for _ in range(codec.sections)
    ]
    outcome(codec, sections, ref)


@given(raw=st.binary(max_size=200), bits=st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None)
def test_a_variable_section_carries_its_length(raw, bits):
    stream = Stream(bits, 8 * 200 // bits, variable=True)
    codec = entropy(echo(stream))
    coded = encode(codec, raw, {}).sections[0]
    assert len(coded) <= len(raw) + bool(raw)
    seen = []
    spy = entropy(
        Codec(
            stateless,
            codec.encode,
            lambda wire, ref: seen.append(wire.sections[0]) or {},
            1,
            lambda ref: (stream,),
            spec={"id": "spy"},
        )
    )
    spy.decode(Wire((coded,)), {})
    assert seen == [raw]


@pytest.mark.parametrize("tag", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("claimed", [0, 201, 2**30, 2**33, 2**60, 2**69])
def test_claimed_lengths_cost_nothing(tag, claimed):
    codec = entropy(echo(Stream(8, 200, variable=True)))
    tracemalloc.start()
    with pytest.raises(WireError):
        codec.decode(Wire((bytes([tag]) + varint(claimed) + b"\5" * 20,)), {})
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
