"""What codecs remember: the laws of the wrappers, and the protocol that keeps both ends agreed."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.mean import Mean
from fl_app.client.memory import Memory, from_record, to_record
from fl_app.codecs import (
    CodecError,
    WireError,
    chain,
    error_feedback,
    fp16,
    fp32,
    momentum_correction,
    nf4,
    receive,
    shift,
    top_k,
)
from fl_app.server.round import RoundFailedError
from fl_app.tree import digest
from tests.combinations import combinations
from tests.messages import frame, put, said, who
from tests.server.test_coded import Rounds, cohort, drop, same

SHAPES = {"a": (3, 40), "b": (7,), "c": (), "none": (0, 2)}
REF = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
INNER = {
    "nf4": nf4(),
    "fp16": fp16(),
    "top_k": chain(top_k(0.1), fp32()),
    "top_k_nf4": chain(top_k(0.1), nf4()),
}


def draws(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in SHAPES.items()}
        for _ in range(count)
    ]


def talk(codec, trees):
    """Send trees in turn; return what was decoded, and both ends' states at the end."""
    state, memory, out = codec.init(REF), codec.init_receiver(REF), []
    for tree in trees:
        wire, state = codec.encode(tree, state, REF)
        decoded, memory = receive(codec, wire, REF, memory)
        out.append(decoded)
    return out, state, memory


def total(trees, name):
    return np.sum([t[name].astype(np.float64) for t in trees], axis=0)


# ---- the wrappers ---------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_error_feedback_loses_nothing(inner, seed, count):
    trees = draws(count, seed)
    out, (residual, *_), _ = talk(error_feedback(inner), trees)
    for name in SHAPES:
        got = total(out, name) + residual[name]
        np.testing.assert_allclose(got, total(trees, name), rtol=0, atol=1e-5)


def test_error_feedback_of_an_exact_codec_is_the_codec():
    trees = draws(3)
    out, (residual, *_), _ = talk(error_feedback(fp32()), trees)
    assert all(same(a, b) for a, b in zip(out, trees, strict=True))
    assert not any(e.any() for e in residual.values())


def test_decay_forgets():
    codec = chain(top_k(0.05), fp32())
    (tree,) = draws(1)
    zero = REF
    _, (kept, *_), _ = talk(error_feedback(codec, decay=0.0), [tree, zero])
    assert not any(e.any() for e in kept.values())
    _, (full, *_), _ = talk(error_feedback(codec), [tree, zero])
    _, (half, *_), _ = talk(error_feedback(codec, decay=0.5), [tree, zero])
    np.testing.assert_array_equal(half["a"], full["a"] / 2)
    assert full["a"].any()


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_both_ends_of_a_shift_agree_bit_for_bit(inner):
    out, (sender, *_), (receiver, *_) = talk(shift(inner), draws(20))
    assert digest(sender) == digest(receiver) == digest(out[-1])


def test_shift_converges_to_a_value_that_stays():
    (tree,) = draws(1)
    out, *_ = talk(shift(nf4()), [tree] * 8)
    errors = [np.abs(o["a"] - tree["a"]).max() for o in out]
    assert errors[0] > 0.01
    assert errors[-1] < 1e-6
    sparse, *_ = talk(shift(chain(top_k(0.1), fp32())), [tree] * 12)
    np.testing.assert_allclose(sparse[-1]["a"], tree["a"], atol=1e-6)


def test_what_is_decoded_does_not_alias_the_memory():
    codec = shift(nf4())
    (tree,) = draws(1)
    wire, _ = codec.encode(tree, codec.init(REF), REF)
    out, memory = receive(codec, wire, REF, codec.init_receiver(REF))
    before = digest(memory[0])
    for x in out.values():
        x += 1
    assert digest(memory[0]) == before


def test_dgc_with_density_one_is_momentum_sgd_without_masking_and_sgd_with():
    trees = draws(6)
    out, *_ = talk(momentum_correction(fp32(), momentum=0.9, masking=False), trees)
    velocity = np.zeros(SHAPES["a"], np.float32)
    for tree, sent in zip(trees, out, strict=True):
        velocity = np.float32(0.9) * velocity + tree["a"]
        np.testing.assert_allclose(sent["a"], velocity, rtol=1e-6)
    out, *_ = talk(momentum_correction(fp32(), momentum=0.9), trees)
    assert all(same(a, b) for a, b in zip(out, trees, strict=True))


def test_dgc_loses_no_velocity_and_masks_what_was_sent():
    sparse = chain(top_k(0.1), fp32())
    trees = draws(6)
    out, (_, v, *_), _ = talk(momentum_correction(sparse, momentum=0.9, masking=False), trees)
    velocity, gathered = np.zeros(SHAPES["a"]), np.zeros(SHAPES["a"])
    for tree in trees:
        velocity = 0.9 * velocity + tree["a"]
        gathered += velocity
    np.testing.assert_allclose(total(out, "a") + v["a"], gathered, rtol=1e-5, atol=1e-5)
    out, (u, v, *_), _ = talk(momentum_correction(sparse, momentum=0.9), trees)
    sent = out[-1]["a"] != 0
    assert sent.sum() == round(0.1 * sent.size)
    assert not u["a"][sent].any()
    assert not v["a"][sent].any()
    assert u["a"][~sent].all()


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_without_momentum_dgc_is_error_feedback(inner):
    trees = draws(5)
    for masking in (False, True):
        dgc, *_ = talk(momentum_correction(inner, momentum=0.0, masking=masking), trees)
        plain, *_ = talk(error_feedback(inner), trees)
        assert all(same(a, b) for a, b in zip(dgc, plain, strict=True))


def test_wrappers_nest_and_their_states_survive_a_record():
    codec = chain(error_feedback(shift(chain(top_k(0.2), nf4()))))
    trees = draws(4)
    _, state, memory = talk(codec, trees[:2])
    for kept, fresh in ((state, codec.init(REF)), (memory, codec.init_receiver(REF))):
        record = to_record(kept)
        again = RecordDict({"state": record})["state"]
        assert to_record(from_record(again, fresh)) == record
    restored = from_record(to_record(state), codec.init(REF))
    a, _ = codec.encode(trees[2], state, REF)
    b, _ = codec.encode(trees[2], restored, REF)
    assert a.sections == b.sections


def test_a_state_of_something_else_is_refused():
    record = to_record(error_feedback(nf4()).init(REF))
    with pytest.raises(ValueError, match="not that of this codec"):
        from_record(record, shift(nf4()).init({"x": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match="not that of this codec"):
        from_record(record, momentum_correction(nf4()).init(REF))


@pytest.mark.parametrize("wrap", [error_feedback, shift, momentum_correction])
def test_a_wrapper_wants_all_of_the_chain(wrap):
    with pytest.raises(ValueError, match="leaves values to encode"):
        wrap(top_k(0.1))
    with pytest.raises(ValueError, match="must be a codec"):
        wrap("nf4")
    assert wrap(nf4()).remembers
    assert chain(wrap(nf4())).remembers


@pytest.mark.parametrize("decay", [-0.1, 1.1, "1", True, None])
def test_error_feedback_wants_a_decay(decay):
    with pytest.raises(ValueError, match="decay"):
        error_feedback(nf4(), decay=decay)


def test_a_memory_beyond_float32_is_refused():
    ref = {"x": np.zeros(3, np.float32)}
    x, minus_x = ({"x": np.full(3, v, np.float32)} for v in (3e38, -3e38))
    for codec, second in ((momentum_correction(fp32(), masking=False), x), (shift(nf4()), minus_x)):
        _, state = codec.encode(x, codec.init(ref), ref)
        with pytest.raises(CodecError, match="NaN or Inf"):
            codec.encode(second, state, ref)
    # an honest frame on a memory that it was not made for
    codec = shift(fp32())
    wire, _ = codec.encode(x, codec.init(ref), ref)
    with pytest.raises(WireError, match="float32"):
        receive(codec, wire, ref, (x, ()))


# ---- the protocol ---------------------------------------------------------------------------

EF = (
    "strategy=fedavg codec=fp32 clients_per_round=3 codec.reference=broadcast"
    " '++codec.up={id: chain, links: [{id: delta}, {id: error_feedback, inner: {id: nf4}}]}'"
)
SHIFT = EF.replace("error_feedback", "shift")
# A shift is remembered at both ends, an error at one.
EITHER = combinations([EF, SHIFT], suite=[SHIFT])


def residual(rounds: Rounds, partition: int, server_round: int) -> dict[str, np.ndarray]:
    """The residual that a client holds of a round, out of its node's records."""
    codec, ref = rounds.here.up, rounds.here.theta0
    for context in rounds.grid.contexts.values():
        key = f"codec.{partition}.{server_round}"
        if key in context.state:
            return from_record(context.state[key], codec.init(ref))[1][0]
    raise KeyError(key)


@pytest.mark.parametrize("overrides", EITHER, ids=["error_feedback", "shift"])
def test_a_client_goes_on_from_the_state_that_was_accepted(tmp_path: Path, overrides) -> None:
    rounds = Rounds(tmp_path, overrides)
    start = rounds.tree
    for number in (1, 2, 3):
        rounds.round(number)
    here = rounds.here
    # the same by hand, without any server
    hand, states, received = start, {}, {}
    for number in (1, 2, 3):
        mean = Mean()  # exact but for one rounding: test_mean
        for p in range(3):
            state = states.get(p, here.up.init(hand))
            memory = received.get(p, here.up.init_receiver(hand))
            wire, states[p] = here.up.encode(rounds.client(p, number, hand), state, hand)
            tree, received[p] = receive(here.up, wire, hand, memory)
            mean.add(tree, sum(map(len, here.documents(p)["questions"])), {})
        hand = mean.tree()
    assert same(rounds.tree, hand)


@pytest.mark.parametrize("overrides", EITHER, ids=["error_feedback", "shift"])
def test_a_lost_reply_is_as_if_it_had_never_been_sent(tmp_path: Path, overrides) -> None:
    rounds = Rounds(tmp_path, overrides)
    rounds.round(1)
    kept = residual(rounds, 1, 1)
    rounds.grid.tamper[1] = drop
    rounds.round(2)
    assert not same(residual(rounds, 1, 2), kept)  # the client cannot know yet
    assert same(residual(rounds, 1, 1), kept)
    del rounds.grid.tamper[1]
    rounds.round(3)
    sent = [m for m in rounds.grid.sent if m.metadata.message_type == "train"][-3:]
    assert {who(m): said(m)["accepted"] for m in sent} == {
        0: 2, 1: 1, 2: 2,
    }  # fmt: skip
    with pytest.raises(KeyError):
        residual(rounds, 1, 2)  # forgotten, never counted
    assert same(residual(rounds, 1, 1), kept)


def test_a_client_that_was_away_finds_its_state(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, EF.replace("clients_per_round=3", "clients_per_round=1"))
    seen: dict[int, int] = {}
    for number in range(1, 7):
        rounds.round(number)
        (partition,) = cohort([r for r in rounds.ledger.rows if r.round == number])
        message = rounds.grid.sent[-1]
        assert said(message)["accepted"] == seen.get(partition, 0)
        seen[partition] = number
    assert len(seen) < 6  # somebody came back


def test_a_node_that_restarts_with_its_records_goes_on(tmp_path: Path) -> None:
    trees = []
    for name in ("plain", "restarted"):
        (tmp_path / name).mkdir()
        rounds = Rounds(tmp_path / name, EF)
        rounds.round(1)
        if name == "restarted":
            for node, context in rounds.grid.contexts.items():
                rounds.grid.contexts[node] = context_from_proto(context_to_proto(context))
        trees.append(rounds.round(2)[0])
    assert same(*trees)


@pytest.mark.parametrize("overrides", EITHER, ids=["error_feedback", "shift"])
def test_a_node_that_lost_its_records_starts_afresh_on_both_ends(
    tmp_path: Path, overrides, caplog
) -> None:
    rounds = Rounds(tmp_path, overrides)
    rounds.round(1)
    for context in rounds.grid.contexts.values():
        context.state = RecordDict()
    tree, _ = rounds.round(2)
    assert "left out" not in caplog.text
    assert all(np.isfinite(x).all() for x in tree.values())
    rounds.round(3)
    assert "left out" not in caplog.text


def from_nowhere(reply: Message) -> Message:
    return put(reply, since=77)


def test_a_reply_that_builds_on_another_round_is_left_out(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, SHIFT, {1: from_nowhere})
    rounds.round(1)
    assert "client 1: since=77 should be a whole number in 0..0" in caplog.text


def test_two_clients_of_a_round_may_not_share_a_node_if_they_remember(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, f"{EF} federation.clients_per_node=2", nodes=2)
    with pytest.raises(RoundFailedError, match="num-supernodes=3"):
        rounds.round(1)


def test_a_codec_without_memory_leaves_no_records(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 clients_per_round=3")
    rounds.round(1)
    assert not any(context.state for context in rounds.grid.contexts.values())
    rounds.round(2)
    assert {*said(rounds.grid.sent[-1])} == {"server-round", "partition"}


def test_the_server_remembers_on_the_way_down(tmp_path: Path) -> None:
    overrides = (
        "strategy=fedavg codec=fp32 clients_per_round=2 '++codec.down={id: chain, links:"
        " [{id: delta}, {id: error_feedback, inner: {id: nf4}}]}'"
    )
    rounds = Rounds(tmp_path, overrides)
    here, theta0 = rounds.here, rounds.here.theta0
    state = here.down.init(theta0)
    for number in (1, 2, 3):
        wire, state = here.down.encode(rounds.tree, state, theta0)
        rounds.round(number)
        sent = [m for m in rounds.grid.sent if m.metadata.message_type == "train"][-2:]
        if number == 1:  # the change is zero, and each client takes its own theta0
            assert not any(m.content for m in sent)
            continue
        frames = {frame(m) for m in sent}
        assert len(frames) == 1
        assert all(section in next(iter(frames)) for section in wire.sections)
    assert any(e.any() for e in state[1][0].values())


def test_a_memory_forgets_all_but_what_was_accepted() -> None:
    records = RecordDict()
    memory, codec = Memory(records, 3), error_feedback(nf4())
    state = codec.init(REF)
    for tree, number in zip(draws(3), (4, 5, 6), strict=True):
        _, state = codec.encode(tree, state, REF)
        memory.remember(number, state)
    Memory(records, 31).remember(5, state)
    _, since = memory.recall(5, codec.init(REF, 0))
    assert since == 5
    assert sorted(records) == ["codec.3.5", "codec.31.5"]
    _, since = memory.recall(9, codec.init(REF, 0))
    assert since == 0
    assert sorted(records) == ["codec.31.5"]


@pytest.mark.parametrize("spoil", ["huge", "damaged", "another type"])
def test_a_file_that_is_no_memory_of_this_codec_is_as_if_there_were_none(
    tmp_path: Path, spoil: str, caplog
) -> None:
    codec = error_feedback(nf4())
    memory = Memory(RecordDict(), 3, [tmp_path])
    (tree,) = draws(1)
    _, state = codec.encode(tree, codec.init(REF), REF)
    memory.remember(4, state)
    (file,) = tmp_path.iterdir()
    assert Memory(RecordDict(), 3, [tmp_path]).recall(4, codec.init(REF, 0))[1] == 4
    if spoil == "huge":
        with file.open("r+b") as open_file:
            open_file.truncate(2**33)  # of no blocks on the disk
    elif spoil == "damaged":
        file.write_bytes(file.read_bytes()[:20])
    else:
        file.write_bytes(file.read_bytes().replace(b'"F32"', b'"BF8"'))
    assert Memory(RecordDict(), 3, [tmp_path]).recall(4, codec.init(REF, 0))[1] == 0
    assert "what a codec remembered is not read" in caplog.text
