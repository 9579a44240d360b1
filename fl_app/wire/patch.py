"""A patch as it travels: a Tree that changes frozen weights, coded as a model on its way down."""

import hashlib

from flwr.app import ConfigRecord, Message, RecordDict

from fl_app.codecs import Codec, Wire
from fl_app.tree import Tree, zeros
from fl_app.wire import readers
from fl_app.wire.envelope import enclosed
from fl_app.wire.frame import pack, unpack
from fl_app.wire.messages import CONFIG, NUMBER, PATCH, RANK


def encode_patch(tree: Tree, codec: Codec, manifest: bytes, seed: int) -> tuple[Wire, bytes, Tree]:
    """Return a patch as ``codec`` writes it, as a frame, and as it arrives.

    Parameters
    ----------
    manifest : bytes
        The fingerprint of the state that the patch changes.
    """
    start = zeros(tree)
    wire, _ = codec.encode(tree, codec.init(start, seed), start)
    return wire, pack(wire, codec, manifest), codec.decode(wire, start)


def decode_patch(frame: bytes, codec: Codec, manifest: bytes, like: Tree) -> Tree:
    """Return the patch in ``frame``, of the names and shapes of ``like``.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, or for another state of the model.
    """
    return codec.decode(unpack(frame, codec, manifest), zeros(like))


def patch_name(frame: bytes) -> str:
    """Return what a process knows a patch by."""
    return hashlib.sha256(frame).hexdigest()


def patch_message(
    node: int, number: int, rank: int, partition: int | None, frame: bytes
) -> Message:
    """Return the message that brings patch ``number`` to a node, of a client if that is known."""
    config = ConfigRecord({NUMBER: number, RANK: rank})
    if partition is not None:
        config[readers.PARTITION] = partition
    return Message(RecordDict({**enclosed(frame), CONFIG: config}), node, f"query.{PATCH}")
