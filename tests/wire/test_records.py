"""Between Trees, frames and Flower's records."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fl_app.codecs import WireError
from fl_app.wire.envelope import LARGE, enclosed
from fl_app.wire.records import message_bytes, pack_record, to_record, to_tree, unpack_record
from tests.messages import least

TREES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    arrays(np.float32, array_shapes(min_dims=0, max_side=4)),
    max_size=4,
)


@given(TREES)
def test_trees_survive_records(tree) -> None:
    back = to_tree(to_record(tree), like=tree)
    assert list(back) == list(tree)
    for name, values in tree.items():
        assert np.array_equal(back[name], values, equal_nan=True)
        assert back[name].dtype == np.float32


def test_order_is_that_of_the_reference() -> None:
    tree = {name: np.zeros(2, np.float32) for name in "cab"}
    shuffled = ArrayRecord({name: to_record(tree)[name] for name in "abc"})
    assert list(to_tree(shuffled, like=tree)) == list("cab")


def test_a_lost_tensor_is_named() -> None:
    tree = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="b"):
        to_tree(to_record({"a": tree["a"]}), like=tree)


@given(st.binary(max_size=300))
def test_a_frame_travels_as_one_array(frame: bytes) -> None:
    content = RecordDict({"arrays": pack_record(frame)})
    assert len(content["arrays"]) == 1
    assert unpack_record(content) == frame


def test_an_array_of_another_type_is_refused() -> None:
    record = to_record({"frame": np.zeros(3, np.float32)})
    with pytest.raises(WireError, match=r"thinwire\.v1"):
        unpack_record(RecordDict({"arrays": record}))


def weight(run: int, node: int, task: int, payload: bytes = b"x" * 100) -> int:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, task
    content = RecordDict({"arrays": pack_record(payload), "metrics": MetricRecord({"loss": 0.5})})
    request = Message(content, node, "train")
    request.metadata.__dict__["_message_id"] = "f" * (node % 60 + 1)
    return message_bytes(Message(content, reply_to=request))


@given(*[st.tuples(*[st.integers(1, 2**63)] * 3)] * 2)
def test_random_ids_do_not_change_the_weight(first, second) -> None:
    assert weight(*first) == weight(*second)


def test_the_weight_grows_by_the_payload() -> None:
    small, large = weight(1, 2, 3, b"a" * 1000), weight(1, 2, 3, b"a" * 51000)
    assert 50000 <= large - small <= 50010  # lengths are varints


@pytest.mark.parametrize("size", [1, 100, 1_500, 10_000, LARGE - 1])
def test_a_frame_is_in_the_lightest_record_that_flower_has(size: int) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    frame = bytes(size)

    def weight(content) -> int:
        return message_bytes(Message(RecordDict(content), 2, "train"))

    assert weight(enclosed(frame)) == least(size, is_reply=False)
    eights = [1.0] * -(-size // 8)
    for other in (
        {"f": ConfigRecord({"": frame})},
        {"": ConfigRecord({"f": frame})},
        {"": ConfigRecord({"": [frame]})},
        {"": MetricRecord({"": eights})},
        {"": pack_record(frame)},
    ):
        assert weight(other) > weight(enclosed(frame))


@pytest.mark.parametrize("size", [0, 22, 100, 1_500, 10_000, LARGE - 1])
def test_what_flower_needs_over_a_frame(size: int) -> None:
    """345 bytes are enough for a question; a reply has the id of its question, too."""
    question, reply = (least(size, is_reply) - size for is_reply in (False, True))
    assert 311 <= question <= 321
    assert 378 <= reply <= 388
    named = len(Message(RecordDict(), 2, "train").object_id)
    assert named + 2 <= reply - question <= named + 4  # type and length, and those of lengths


def test_errors_weigh_something_too() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    request = Message(RecordDict(), 5, "train")
    reply = Message(Error(code=2, reason="it broke"), reply_to=request)
    assert 50 < message_bytes(reply) < 500
