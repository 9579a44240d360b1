"""Between Thinwire's Trees and frames and Flower's records, and what a message weighs."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fl_app.codecs import WireError
from fl_app.tree import Tree
from fl_app.wire.messages import ARRAYS, FRAME, STYPE


def to_record(tree: Tree) -> ArrayRecord:
    """Return ``tree`` as plain Flower arrays, for a strategy or a ClientApp."""
    return ArrayRecord({name: Array(values) for name, values in tree.items()})


def to_tree(record: ArrayRecord, like: Tree) -> Tree:
    """Return plain Flower arrays as a float32 Tree in the order of ``like``.

    Raises
    ------
    ValueError
        If the names differ: the strategy or the ClientApp lost or renamed a tensor.
    """
    if {*record} != {*like}:
        raise ValueError(
            f"arrays {sorted({*record} ^ {*like})[:3]} are missing or unknown: a strategy has to "
            "return exactly the tensors that it was given"
        )
    return {name: np.asarray(record[name].numpy(), np.float32, order="C") for name in like}


def pack_record(frame: bytes) -> ArrayRecord:
    """Return a frame as the one Array of a message."""
    return ArrayRecord({FRAME: Array("uint8", (len(frame),), STYPE, frame)})


def unpack_record(content: RecordDict) -> bytes:
    """Return the frame of a message's content.

    Raises
    ------
    WireError
        If the content does not hold exactly one packed Array under ``arrays``.
    """
    record = content.get(ARRAYS)
    if not isinstance(record, ArrayRecord) or list(record) != [FRAME]:
        raise WireError(f"the message holds no '{ARRAYS}' record with one '{FRAME}' array")
    if record[FRAME].stype != STYPE:
        raise WireError(f"the frame has type '{record[FRAME].stype}', expected '{STYPE}'")
    return record[FRAME].data


# Flower draws run, node and task ids at random, but for the server's own node id, and a protobuf
# varint is shorter for a smaller one. Ids of full width make equal runs weigh the same; a message
# id is a SHA-256 in hex, as in deployment, also in simulation, where Flower uses shorter ones.
_WIDEST = 2**64 - 1
_MESSAGE_ID = "0" * 64


def message_bytes(message: Message) -> int:
    """Return the bytes of all Flower objects of ``message``, as Flower serialises them.

    Random ids are counted at their full width, so that a run repeated gives the same number.
    """
    sent = message.metadata
    metadata = Metadata(
        run_id=_WIDEST,
        message_id="",
        src_node_id=_counted(sent.src_node_id),
        dst_node_id=_counted(sent.dst_node_id),
        reply_to_message_id=_MESSAGE_ID if sent.reply_to_message_id else "",
        group_id=sent.group_id,
        created_at=sent.created_at,
        ttl=sent.ttl,
        message_type=sent.message_type,
        src_task_id=None if sent.src_task_id is None else _WIDEST,
        dst_task_id=None if sent.dst_task_id is None else _WIDEST,
    )
    content = message.content if message.has_content() else None
    error = message.error if message.has_error() else None
    copy = make_message(metadata=metadata, content=content, error=error)
    return sum(len(part.deflate()) for part in get_all_nested_objects(copy).values())


def _counted(node: int) -> int:
    return node if node == SUPERLINK_NODE_ID else _WIDEST
