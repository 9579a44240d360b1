"""Flower's own ``HttpGrid.pull_messages``, over the objects of replies that nodes have made."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from fl_app.server.pulling import bound_replies

LIMIT = 8_000_000  # more than a chunk


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    bound_replies(LIMIT)


def reply(values: np.ndarray) -> Message:
    question = Message(RecordDict(), 7, "train")
    question.metadata.__dict__["_message_id"] = "q" * 64
    content = RecordDict({"arrays": ArrayRecord({"frame": Array(values)})})
    return Message(content, reply_to=question)


class Link:
    """What a SuperLink holds of replies, and how much of it was asked for."""

    def __init__(
        self, *replies: Message, spoil: str = "", forged: InflatableObject | None = None
    ) -> None:
        self.replies, self.pulled, self.confirmed = replies, 0, []
        self.objects = {}
        self.trees = [get_object_tree(forged or one) for one in replies]
        if forged is not None:
            found = get_all_nested_objects(forged).items()
            self.objects |= {i: part.deflate() for i, part in found}
        for one in replies:
            one.metadata.__dict__["_message_id"] = (forged or one).object_id
            self.objects |= {i: part.deflate() for i, part in get_all_nested_objects(one).items()}
        for identity, content in self.objects.items():
            if spoil and content.startswith(spoil.encode() + b" "):
                head, _, body = content.partition(b"\x00")
                self.objects[identity] = head + b"\x00" + b"\xff" * len(body)

    def PullMessages(self, request) -> PullAppMessagesResponse:  # noqa: N802
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(m)) for m in self.replies],
            message_object_trees=self.trees,
        )

    def PullObject(self, request) -> PullObjectResponse:  # noqa: N802
        content = self.objects[request.object_id]
        self.pulled += len(content)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)


def pull(link: Link) -> list[Message]:
    grid = HttpGrid(token="x", insecure=True)
    grid.set_run(Run.create_empty(1))
    grid._client = link
    return list(grid.pull_messages([]))


def test_an_honest_reply_is_as_it_was_sent() -> None:
    values = np.arange(1000, dtype=np.float32)
    link = Link(reply(values))
    (found,) = pull(link)
    np.testing.assert_array_equal(found.content["arrays"]["frame"].numpy(), values)
    assert link.confirmed == [found.metadata.message_id]


@pytest.mark.parametrize("repeated", [False, True], ids=["large", "one chunk many times"])
def test_a_reply_beyond_the_limit_is_an_error_of_its_node_alone(repeated: bool) -> None:
    values = np.zeros(10**8, np.uint8)  # chunks of 5 MB with the same name: a bomb
    if not repeated:
        values = np.random.default_rng(0).integers(0, 256, 3 * 10**7, np.uint8)
    honest = reply(np.ones(3, np.float32))
    link = Link(reply(values), honest)
    bad, good = pull(link)
    assert bad.has_error()
    assert bad.metadata.reply_to_message_id == "q" * 64
    assert "the reply has more than the 8,000,000 bytes" in bad.error.reason
    assert link.pulled < LIMIT + 2.5 * 5_242_880  # two at once
    assert good.content["arrays"]["frame"].numpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("part", ["Array", "ArrayRecord", "RecordDict", "Message"])
def test_objects_that_cannot_be_put_together_are_an_error_of_their_node_alone(part: str) -> None:
    honest = Link(reply(np.ones(3, np.float32)))
    link = Link(reply(np.zeros(5, np.float32)), spoil=part)
    link.objects |= honest.objects
    link.replies = (*link.replies, *honest.replies)
    link.trees += honest.trees
    bad, good = pull(link)
    assert bad.has_error()
    assert "it cannot be read" in bad.error.reason
    assert bad.metadata.reply_to_message_id == "q" * 64
    assert good.content["arrays"]["frame"].numpy().tolist() == [1, 1, 1]


def no_message(one: Message) -> InflatableObject:
    return one.content["arrays"]


def no_content(one: Message) -> InflatableObject:
    other = reply(np.zeros(5, np.float32))
    other.__dict__["_content"] = one.content["arrays"]
    return other


def of_another(one: Message) -> InflatableObject:
    """The reply of node 7 says that it is to the question that node 8 got."""
    other = reply(np.zeros(5, np.float32))
    other.metadata.__dict__["_reply_to_message_id"] = "8" * 64
    return other


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (no_message, "it is a ArrayRecord"),
        (no_content, "Invalid arguments for Message"),
        (of_another, "answers another question"),
    ],
)
def test_what_is_no_reply_to_the_question_is_an_error_of_its_node_alone(
    forge: Callable[[Message], InflatableObject], says: str
) -> None:
    announced = reply(np.zeros(5, np.float32))
    forged = forge(announced)
    link = Link(announced, forged=forged)
    (bad,) = pull(link)
    assert bad.has_error()
    assert says in bad.error.reason
    assert bad.metadata.reply_to_message_id == "q" * 64


def test_a_message_of_very_many_objects_is_not_even_begun() -> None:
    one = reply(np.ones(3, np.float32))
    many = {f"a{k}": Array(np.full(1, k, np.float32)) for k in range(10_001)}
    one.content["arrays"] = ArrayRecord(many)
    link = Link(one)
    (bad,) = pull(link)
    assert bad.has_error()
    assert "objects" in bad.error.reason
    assert link.pulled == 0
