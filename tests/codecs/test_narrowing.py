"""Links that leave another tree than they got: every later link, state and memory must fit it."""

from __future__ import annotations

import numpy as np
import pytest

from fl_app.client.memory import from_record, to_record
from fl_app.codecs import (
    Wire,
    WireError,
    chain,
    delta,
    entropy,
    error_feedback,
    fp32,
    from_spec,
    low_rank,
    nf4,
    random_k,
    receive,
    shift,
    top_k,
    uniform,
)

SHAPES = {"w": (8, 16), "conv": (6, 3, 4), "b": (65,), "s": (), "none": (0, 3)}

CODECS = {
    "top_k-uniform": chain(delta(), top_k(0.2, "tree"), uniform(error=0.1)),
    "low_rank-uniform": chain(delta(), low_rank(1), uniform(error=0.1, dither=True)),
    "three": chain(delta(), low_rank(1), top_k(0.5), random_k(0.5), nf4()),
    "three-tree": chain(chain(low_rank(2), top_k(0.5, "tree")), chain(random_k(0.5), fp32())),
    "low_rank-memory": chain(delta(), low_rank(1), error_feedback(nf4())),
    "top_k-memory": chain(delta(), chain(top_k(0.2, "tree"), shift(uniform(error=0.1)))),
    "memory-three": chain(
        delta(), error_feedback(chain(low_rank(1), top_k(0.5), random_k(0.5), nf4()))
    ),
    "memories": shift(chain(low_rank(1), error_feedback(chain(top_k(0.2, "tree"), nf4())))),
    "entropy": entropy(chain(delta(), top_k(0.2), nf4())),
    "entropy-last": chain(
        delta(), low_rank(1), entropy(chain(top_k(0.5, "tree"), uniform(bits=4)))
    ),
    "entropy-memory": error_feedback(entropy(chain(low_rank(1), random_k(0.5), nf4()))),
}


@pytest.fixture(params=list(CODECS), name="codec")
def _codec(request):
    return CODECS[request.param]


def tree_of(salt, shapes=SHAPES):
    rng = np.random.default_rng(salt)
    return {name: np.asarray(rng.standard_normal(s), np.float32) for name, s in shapes.items()}


def saved(state):
    """What a node finds again in its records."""
    return from_record(to_record(state), state)


def leaves(state):
    if isinstance(state, np.ndarray):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    return [leaf for part in parts for leaf in leaves(part)]


def test_messages_states_and_memories_fit_whatever_is_left(codec):
    ref = tree_of(0)
    state, memory = codec.init(ref, 7), codec.init_receiver(ref)
    shapes = [x.shape for x in leaves(state)], [x.shape for x in leaves(memory)]
    for salt in range(1, 5):
        before = [x.copy() for x in leaves(state)]
        wire, after = codec.encode(tree_of(salt), state, ref)
        assert not wire.rest
        assert all(np.array_equal(x, y) for x, y in zip(leaves(state), before, strict=True))
        for section, stream in zip(wire.sections, codec.streams(ref), strict=True):
            assert len(section) <= stream.nbytes
            assert stream.variable or len(section) == stream.nbytes
        out, memory = receive(codec, wire, ref, memory)
        assert {name: x.shape for name, x in out.items()} == SHAPES
        assert all(np.isfinite(x).all() and x.flags.writeable for x in out.values())
        state = saved(after)
        memory = saved(memory)
        assert ([x.shape for x in leaves(state)], [x.shape for x in leaves(memory)]) == shapes


def test_a_reference_of_other_values_gives_the_same_layout(codec):
    a, b = tree_of(0), {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    assert codec.streams(a) == codec.streams(b)
    assert [x.shape for x in leaves(codec.init(a))] == [x.shape for x in leaves(codec.init(b))]


def test_the_spec_builds_the_same_codec(codec):
    ref, again = tree_of(0), from_spec(codec.spec)
    sections = [c.encode(tree_of(1), c.init(ref, 3), ref)[0].sections for c in (codec, again)]
    assert sections[0] == sections[1]


def test_the_empty_tree(codec):
    wire, _ = codec.encode({}, codec.init({}), {})
    assert codec.decode(wire, {}) == {}


def test_damaged_sections_are_wire_errors_or_finite_trees(codec):
    ref = tree_of(0)
    wire, _ = codec.encode(tree_of(1), codec.init(ref), ref)
    rng = np.random.default_rng(5)
    for at, section in enumerate(wire.sections):
        for _ in range(20 if section else 0):
            damaged = bytearray(section)
            damaged[rng.integers(len(section))] ^= 1 << rng.integers(8)
            sections = (*wire.sections[:at], bytes(damaged), *wire.sections[at + 1 :])
            try:
                out = codec.decode(Wire(sections), ref)
            except WireError:
                continue
            assert all(np.isfinite(x).all() for x in out.values())


def test_error_feedback_after_a_narrowing_link_loses_nothing_of_its_rest():
    ref = {"w": np.zeros((20, 30), np.float32)}
    codec = chain(low_rank(1), error_feedback(nf4()))
    state, sent, meant = codec.init(ref), 0.0, 0.0
    for salt in range(8):
        tree = tree_of(salt, {"w": (20, 30)})
        wire, state = codec.encode(tree, state, ref)
        sent = sent + nf4().decode(wire, low_rank(1).narrow(ref))["w/Q"]
        meant = meant + low_rank(1).encode(tree, (), ref)[0].rest["w/Q"]
    residual = state[1][0]["w/Q"]
    assert np.allclose(sent + residual, meant, atol=1e-4)
