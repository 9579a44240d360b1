"""What a node's reply may bring into the server's memory.

A message is a tree of objects, which Flower's ``Grid`` pulls one by one and puts together before
anything here sees it. An array is a list of chunks, by name: a node that sends one of 5 MB and
names it 200 times has sent 5 MB, and the server would hold 1 GB and more. And a node may push what
looks like objects and cannot be put together, which would end the run. Both become an error reply
of that one node.
"""

import json
from collections.abc import Callable
from threading import Lock
from typing import Any

from flwr.app import Array, Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import Message as ProtoMessage
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

    def put_together(identity: str, contents: dict[str, bytes]) -> Any:
        whole = contents.get(identity, b"")
        try:
            if _array_bytes(contents) > limit:
                raise ValueError(too_large)
            return flower.inflate_object_from_contents(identity, contents)
        except Exception as error:  # whatever a node has made of it
            return _unreadable(whole, f"{type(error).__name__}: {error}")

    grid: Any = http_grid  # it has no parameter for either
    grid.pull_objects, grid.inflate_object_from_contents = pull, put_together


def _array_bytes(contents: dict[str, bytes]) -> int:
    """Return the bytes of all arrays, once they are put together."""
    total = 0
    for content in contents.values():
        if content.startswith(b"Array "):
            _, chunks, _ = get_object_head_values_from_object_content(content)
            named = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(contents[chunks[i]]) for i in named)
    return total


def _unreadable(whole: bytes, reason: str) -> Message:
    """Return the error that stands for a message; it replies to nothing if even that is unknown."""
    try:
        sent = ProtoMessage.FromString(get_object_body(whole, Message)).metadata
        run_id, question = sent.run_id, sent.reply_to_message_id
    except Exception:
        run_id, question = 0, ""
    return make_message(
        metadata=Metadata(
            run_id=run_id, message_id="", src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=SUPERLINK_NODE_ID, message_type=SYSTEM_MESSAGE_TYPE, group_id="",
            ttl=0, reply_to_message_id=question, created_at=0.0,
        ),
        error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=f"it cannot be read: {reason}"),
    )  # fmt: skip
