"""What a node's reply may bring into the server's memory.

A message is a tree of objects, which Flower's ``Grid`` pulls one by one and puts together before
anything here sees it. An array is a list of chunks, by name: a node that sends one of 5 MB and
names it 200 times has sent 5 MB, and the server would hold 1 GB and more. A node may push what
looks like objects and cannot be put together, or is no message, which would end the run. And what a
message says of itself, such as which question it answers, the node has written: Flower has checked
what came beside it. All of these become an error reply of that one node.
"""

import json
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, cast

from flwr.app import Array, Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable import inflatable_utils as flower
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.superlink.grid import http_grid

MAX_OBJECTS = 10_000  # of a message; an honest one has a handful, and one more for every 5 MB


def bound_replies(limit: int) -> None:
    """Let the grid of this process pull at most ``limit`` bytes of a message, and survive any."""

    too_large = f"the reply has more than the {limit:,} bytes that one may have"

    def pull(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
        lock, pulled = Lock(), 0
        if len(object_ids) > MAX_OBJECTS:
            raise flower.ObjectPullError(object_ids[-1], f"of {len(object_ids):,} objects")

        def counted(identity: str) -> bytes:
            nonlocal pulled
            content = pull_object_fn(identity)
            with lock:
                pulled += len(content)
                if pulled > limit:
                    raise flower.ObjectPullError(identity, too_large)
            return content

        return flower.pull_objects(object_ids, counted)

    def put_together(identity: str, contents: dict[str, bytes]) -> Message:
        sent = _announced.pop(identity, Announced(0, ""))
        try:
            if _array_bytes(contents) > limit:
                raise ValueError(too_large)
            found = flower.inflate_object_from_contents(identity, contents)
            _check(found, sent)
        except Exception as error:  # whatever a node has made of it
            return _unreadable(sent, f"{type(error).__name__}: {error}")
        return cast(Message, found)

    grid: Any = http_grid  # it has no parameter for any of these
    grid.pull_objects, grid.inflate_object_from_contents = pull, put_together
    grid.HttpGrid._runtime_client = property(lambda self: _Client(_CLIENT.fget(self)))


class Announced(NamedTuple):
    """What Flower, which knows the node, has let pass of a message."""

    run_id: int
    question: str


_announced: dict[str, Announced] = {}  # by message id, between a request for messages and its end
_CLIENT: Any = http_grid.HttpGrid.__dict__["_runtime_client"]


class _Client:
    """Flower's client, and a note of what it brings."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        found = self._client.PullMessages(request)
        _announced.clear()
        for one in found.messages_list:
            sent = one.metadata
            _announced[sent.message_id] = Announced(sent.run_id, sent.reply_to_message_id)
        return found


def _check(found: Any, sent: Announced) -> None:
    """Raise ValueError if this is no message, or answers another question than announced."""
    if not isinstance(found, Message):
        raise ValueError(f"it is a {type(found).__name__}")
    if found.metadata.reply_to_message_id != sent.question:
        raise ValueError("it says that it answers another question than the one it came for")


def _array_bytes(contents: dict[str, bytes]) -> int:
    """Return the bytes of all arrays, once they are put together."""
    total = 0
    for content in contents.values():
        if content.startswith(b"Array "):
            _, chunks, _ = get_object_head_values_from_object_content(content)
            named = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(contents[chunks[i]]) for i in named)
    return total


def _unreadable(sent: Announced, reason: str) -> Message:
    """Return the error that stands for a message."""
    return make_message(
        metadata=Metadata(
            run_id=sent.run_id, message_id="", src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=SUPERLINK_NODE_ID, message_type=SYSTEM_MESSAGE_TYPE, group_id="",
            ttl=0, reply_to_message_id=sent.question, created_at=0.0,
        ),
        error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=f"it cannot be read: {reason}"),
    )  # fmt: skip
