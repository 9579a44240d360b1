"""Several named Trees in one message: nothing of one part depends on another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.codecs import by_part, chain, delta, entropy, error_feedback, fp32, nf4, sign, top_k
from fl_app.codecs.by_part import join, separate

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
PARTS = st.dictionaries(
    NAMES.filter(lambda n: "/" not in n and n != "model"), st.lists(NAMES, unique=True), max_size=3
)


def values(names, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(3).astype(np.float32) for name in names}


@given(PARTS, st.lists(NAMES.filter(lambda n: "/" not in n), unique=True))
def test_parts_are_joined_and_taken_apart_again(others, model):
    parts = {"model": values(model), **{part: values(names) for part, names in others.items()}}
    whole = join(parts)
    assert len(whole) == sum(map(len, parts.values()))
    back = separate(whole, list(parts))
    assert {part: {*tree} for part, tree in back.items()} == {k: {*v} for k, v in parts.items()}


def test_the_sections_are_those_of_each_codec_alone_and_so_is_the_memory():
    codecs = {
        "model": chain(delta(), error_feedback(chain(top_k(0.2), nf4()))),
        "control": entropy(nf4()),
        "precision": sign(),
    }
    codec = by_part(*codecs.values(), names=list(codecs))
    ref = {part: values(("a", "b/c", "d"), seed) for seed, part in enumerate(codecs)}
    whole_state = codec.init(join(ref), 7)
    states = {part: one.init(ref[part], 7) for part, one in codecs.items()}
    for seed in (10, 20, 30):
        parts = {part: values(("a", "b/c", "d"), seed + i) for i, part in enumerate(codecs)}
        wire, whole_state = codec.encode(join(parts), whole_state, join(ref))
        alone = []
        decoded = separate(codec.decode(wire, join(ref)), list(codecs))
        for part, one in codecs.items():
            piece, states[part] = one.encode(parts[part], states[part], ref[part])
            alone.extend(piece.sections)
            for name, x in one.decode(piece, ref[part]).items():
                np.testing.assert_array_equal(decoded[part][name], x)
        assert wire.sections == tuple(alone)
    assert codec.remembers


@pytest.mark.parametrize(
    ("codecs", "names", "says"),
    [
        ([nf4()], ["model", "control"], "1 codecs for 2 names"),
        ([nf4(), fp32()], ["model", "model"], "different"),
        ([nf4(), fp32()], ["model", "a/b"], "without '/'"),
        ([nf4(), top_k(0.1)], ["model", "control"], "leaves values to encode"),
        ([], [], "0 codecs"),
    ],
)
def test_what_makes_no_sense_is_refused(codecs, names, says):
    with pytest.raises(ValueError, match=says):
        by_part(*codecs, names=names)


def test_a_tensor_of_no_part_is_refused():
    codec = by_part(nf4(), names=["control"])
    tree = values(["stray"])
    with pytest.raises(ValueError, match="'stray' belongs to none of the parts"):
        codec.init(tree)
