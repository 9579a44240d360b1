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
from fl_app.simulation.loopback import Loopback
from fl_app.wire import readers
from fl_app.wire.frame import pack
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("partition", x) for x in (-1, 3, 2**62, True, 0.0, "0", [0])),
        *(("server-round", x) for x in (0, -1, 3, 2**62, True, 1.0, "1", [1])),
        *(("accepted", x) for x in (-1, 1, 2**62, False, 0.0, "0", [0])),
        *(("proximal-mu", x) for x in (-1.0, math.nan, math.inf, "1", [1.0], True)),
        *(("clipnorm", x) for x in (-1.0, math.nan, math.inf, "1", [1.0], True)),
    ],
    ids=str,
)
def test_a_node_trains_for_no_message_that_the_run_cannot_have(key: str, value: object) -> None:
    from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

    # What the configuration says is held against it, whatever the other value is.
    says = "the run's configuration" if key in ("proximal-mu", "clipnorm") else "should be"
    key = KEY_CLIPPING_NORM if key == "clipnorm" else key
    here, grid = open_session(CONFIG), Loopback(CONFIG, 3)
    wire, _ = here.down.encode(here.theta0, here.down.init(here.theta0), here.theta0)
    content = RecordDict(
        {
            "arrays": pack_record(pack(wire, here.down, here.manifest)),
            "config": ConfigRecord({**HONEST, key: value}),
        }
    )
    node = next(iter(grid.contexts))
    message = Message(content, node, "train")
    message.metadata.__dict__["_message_id"] = "m"
    reply = grid.deliver(message)
    assert reply is not None
    assert reply.has_error()
    assert says in reply.error.reason


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
    message = patch_message(node, 0, 2, 0, pack_record(frame))
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
    reply = grid.deliver(patch_message(node, 0, 6, 0, pack_record(frame)))
    assert reply is not None
    assert not reply.has_error()


def test_metrics_are_read_as_config_is() -> None:
    assert readers.integer(MetricRecord({"n": 3}), "n", 1, 9) == 3
    with pytest.raises(WireError, match=r"n=3\.0"):
        readers.integer(MetricRecord({"n": 3.0}), "n", 1, 9)
    message = Message(RecordDict({"arrays": to_record({})}), 1, "train")
    with pytest.raises(WireError, match="no record 'config'"):
        readers.record(message)
