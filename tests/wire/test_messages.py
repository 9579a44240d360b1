"""What a message may make its reader do: nothing, unless every value in it is one that can be."""

import math
import re
import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_app.build import open_session
from fl_app.client import patches
from fl_app.codecs import WireError
from fl_app.session import Session
from fl_app.simulation.loopback import Loopback
from fl_app.wire import readers
from fl_app.wire.envelope import derived, enclosed
from fl_app.wire.frame import pack
from fl_app.wire.heads import QUESTION
from fl_app.wire.patch import encode_patch, patch_message
from fl_app.wire.records import pack_record, to_record
from tests import small

SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=99), st.binary()
)
VALUES = st.one_of(
    SCALARS, *(st.lists(kind, max_size=5) for kind in (st.integers(-9, 9), st.text(), st.binary()))
)


def answer(read) -> object:
    """Return what is read, None where that is refused, in few words."""
    try:
        return read()
    except WireError as refused:
        reason = str(refused)
    assert len(reason) < 200
    return None


@given(VALUES, st.integers(-9, 9), st.integers(0, 9))
def test_what_is_read_is_what_was_asked_for_or_refused(value, least: int, span: int) -> None:
    record, most = ConfigRecord({"x": value}), least + span
    whole = answer(lambda: readers.integer(record, "x", least, most))
    assert (whole is not None) == (type(value) is int and least <= value <= most)
    number = answer(lambda: readers.number(record, "x", least, most))
    fits = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
    assert (number is not None) == fits
    several = answer(lambda: readers.integers(record, "x", -9, 9, range(1, span + 1)))
    fits = isinstance(value, list) and 0 < len(value) <= span
    assert (several is not None) == (fits and all(type(one) is int for one in value))
    texts = answer(lambda: readers.texts(record, "x", 3, range(span + 1)))
    fits = isinstance(value, list) and len(value) <= span
    assert (texts is not None) == (fits and all(type(b) is bytes and len(b) == 3 for b in value))
    assert (answer(lambda: readers.text(record, "x", 3)) is None) == (
        type(value) is not bytes or len(value) != 3
    )
    names = answer(lambda: readers.names(record, "x", re.compile("[0-9a-f]+"), span))
    assert names is None or all(re.fullmatch("[0-9a-f]+", one) for one in names)


@pytest.mark.parametrize("value", ["x" * 5_000_000, b"x" * 5_000_000, [7] * 1_000_000])
def test_a_huge_value_makes_no_huge_error(value) -> None:
    record = ConfigRecord({"x": value})
    for read in (
        lambda: readers.integer(record, "x", 0, 9),
        lambda: readers.number(record, "x"),
        lambda: readers.integers(record, "x", 0, 9, 3),
        lambda: readers.texts(record, "x", 2, 3),
        lambda: readers.names(record, "x", re.compile("y"), 3),
    ):
        assert answer(read) is None


# ---- what a node does with a server's message -----------------------------------------------

CONFIG = (
    f"{small.RUN} strategy=fedavg clients_per_round=2 codec=fp32 "
    "codec.up={id:error_feedback,inner:{id:nf4}}"
)
HONEST = {"partition": 0, "server-round": 1, "accepted": 0}


def frame_of_theta0(here: Session) -> bytes:
    wire, _ = here.down.encode(here.theta0, here.down.init(here.theta0), here.theta0)
    return pack(wire, here.down, here.manifest)


def refusal(content: dict, group: str = "", words: str = CONFIG) -> str:
    """Why a node refuses to train for a message, "" if it does not."""
    grid = Loopback(words, 3)
    message = Message(RecordDict(content), next(iter(grid.contexts)), "train", group_id=group)
    message.metadata.__dict__["_message_id"] = "m"
    reply = grid.deliver(message)
    assert reply is not None
    return reply.error.reason if reply.has_error() else ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("partition", x) for x in (3, 2**62, None)),
        *(("server-round", x) for x in (0, 3, 2**62, None)),
        *(("accepted", x) for x in (1, 2**62, None)),
        *(("form", x) for x in (1, 2**62)),
        # What a head says has no other place.
        *(("config." + x, 0) for x in ("partition", "server-round", "accepted", "form")),
        *(("proximal-mu", x) for x in (-1.0, math.nan, math.inf, "1", [1.0], True)),
        *(("clipnorm", x) for x in (-1.0, math.nan, math.inf, "1", [1.0], True)),
    ],
    ids=str,
)
def test_a_node_trains_for_no_message_that_the_run_cannot_have(key: str, value: object) -> None:
    from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

    # What the configuration says is held against it, whatever the other value is.
    in_head = key in QUESTION.fields
    says = "should be" if in_head else "the run's configuration"
    key = KEY_CLIPPING_NORM if key == "clipnorm" else key.removeprefix("config.")
    head = {**HONEST, key: value} if in_head else HONEST
    head = QUESTION.write({name: x for name, x in head.items() if x is not None})
    rest = {} if in_head else {"config": ConfigRecord({key: value})}
    frame = frame_of_theta0(open_session(CONFIG))
    assert says in refusal({**enclosed(frame, head), **rest})
    if not in_head:
        group = derived(open_session(CONFIG).manifest, 0)
        assert says in refusal(rest, group)


def test_a_node_reads_no_head_that_no_server_writes() -> None:
    words = CONFIG.replace("codec=fp32", "codec=nf4")
    frame, head = frame_of_theta0(open_session(words)), QUESTION.write(HONEST)
    inline = enclosed(frame, head)
    assert {*inline} == {""}
    assert refusal(inline, words=words) == ""
    for content, says in (
        ({}, "no record '' with its head"),
        ({"config": ConfigRecord({"partition": 0})}, "no record '' with its head"),
        ({"arrays": pack_record(frame)}, "no record '' with its head"),
        ({"": pack_record(frame)}, "does not hold bytes"),
        ({"": ConfigRecord({"": "text"})}, "does not hold bytes"),
        ({"": ConfigRecord({"": [head]})}, "does not hold bytes"),
        ({"": ConfigRecord({"x": head + frame})}, "does not hold bytes"),
        ({"": ConfigRecord({"": head + frame, "x": 1})}, "does not hold bytes"),
        ({**inline, "arrays": pack_record(frame)}, "and another one in 'arrays'"),
        (enclosed(None, head), "brings no frame"),
        ({"": ConfigRecord({"": b""})}, "truncated: 0 bytes"),
        ({"": ConfigRecord({"": frame})}, "a message of version 84, this side reads 3"),
        (enclosed(frame, head[:-1]), "not a Thinwire frame"),
        (enclosed(frame, head + b"x"), "not a Thinwire frame"),
    ):
        assert says in refusal(content, words=words)
    # Where a frame is, is its sender's choice.
    apart = {"": ConfigRecord({"": head}), "arrays": pack_record(frame)}
    assert refusal(apart, words=words) == ""
    assert {*enclosed(frame_of_theta0(open_session(CONFIG)), head)} == {*apart}


def test_a_node_rebuilds_theta0_for_no_other_run_and_no_other_client() -> None:
    here = open_session(CONFIG)
    group = derived(here.manifest, 0)
    assert refusal({}, group) == ""
    inline = enclosed(frame_of_theta0(here), QUESTION.write(HONEST))
    for content, said, says in (
        ({}, derived(b"another!", 0), "theta0 or the trained tensors differ"),
        ({}, derived(here.manifest, 3), "partition=3 should be a whole number in 0..2"),
        ({}, derived(here.manifest, None), "partition=None"),
        ({}, group + "\n", "does not say whom it asks"),
        ({}, group + "0000000", "does not say whom it asks"),
        ({}, group + "x" * 5_000_000, "does not say whom it asks"),
        ({}, "0", "does not say whom it asks"),
        (inline, group, "in its group id, and in its records"),
        ({"arrays": pack_record(b"x")}, group, "in its group id, and in its records"),
    ):
        found = refusal(content, said)
        assert says in found
        assert len(found) < 400


FLORA = f"{small.RUN} strategy=flora adapter=lora adapter.r=2 codec=fp32 clients_per_round=3"


@pytest.mark.parametrize("codec", ["fp32", "thin"])
@pytest.mark.parametrize(
    ("number", "rank"),
    [(0, 10_000), (0, 7), (0, 0), (0, -1), (0, True), (0, 2.0), (0, 2**62), (3, 2), (-1, 2),
     (10**9, 2), (0, [2])],
    ids=str,
)  # fmt: skip
def test_a_patch_is_refused_by_its_rank_before_memory_is_taken_for_it(
    codec: str, number: object, rank: object
) -> None:
    """A frame of 44 bytes that claims a rank of 10,000 took 1.3 GB."""
    words = FLORA.replace("codec=fp32", f"codec={codec}")
    here, grid = open_session(words), Loopback(words, 3)
    node, context = next(iter(grid.contexts.items()))
    empty = {"x": np.zeros(0, np.float32)}
    wire, _ = here.down.encode(empty, here.down.init(empty), empty)
    frame = pack(wire, here.down, here.manifest)
    assert len(frame) < 100
    message = patch_message(node, 0, 2, 0, frame)
    message.content["config"] = ConfigRecord({"number": number, "rank": rank, "partition": 0})
    tracemalloc.start()
    reply = grid.deliver(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply is not None
    assert reply.has_error()
    assert peak < 5_000_000
    assert not context.state.get(patches.FRAMES)
    assert not here.patches


def test_a_patch_as_large_as_the_runs_largest_is_taken() -> None:
    here, grid = open_session(FLORA), Loopback(FLORA, 3)
    node = next(iter(grid.contexts))
    tree = {
        name: np.zeros_like(values)
        for name, values in here.adapter.patch_like(here.model, 6).items()
    }
    _, frame, _ = encode_patch(tree, here.down, here.manifest, here.cfg.seed)
    reply = grid.deliver(patch_message(node, 0, 6, 0, frame))
    assert reply is not None
    assert not reply.has_error()


def test_metrics_are_read_as_config_is() -> None:
    assert readers.integer(MetricRecord({"n": 3}), "n", 1, 9) == 3
    with pytest.raises(WireError, match=r"n=3\.0"):
        readers.integer(MetricRecord({"n": 3.0}), "n", 1, 9)
    message = Message(RecordDict({"arrays": to_record({})}), 1, "train")
    with pytest.raises(WireError, match="no record 'config'"):
        readers.record(message)
