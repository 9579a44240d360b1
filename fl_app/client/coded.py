"""The client's half of the wire: the mod around a ClientApp that decodes and encodes.

The server's half is ``fl_app.server.coded.Coded``.
"""

import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl_app.client import disk
from fl_app.client.memory import Memory
from fl_app.client.patches import patched
from fl_app.seeds import turn_seed
from fl_app.session import Session
from fl_app.tree import Tree
from fl_app.wire import readers
from fl_app.wire.frame import pack, unpack
from fl_app.wire.messages import ACCEPTED, ARRAYS, SINCE, TIMING
from fl_app.wire.records import pack_record, to_record, to_tree, unpack_record


def coded(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Decode the broadcast, let the app work on plain arrays, encode the model it returns.

    Raises
    ------
    WireError
        If the frame is damaged, of another codec, or from another theta0.
    CodecError
        If the returned model cannot be encoded, for example because it holds NaN.
    """
    here = patched(context)
    began = time.perf_counter()
    wire = unpack(unpack_record(message.content), here.down, here.manifest)
    broadcast = here.down.decode(wire, here.theta0)
    decoded = time.perf_counter()

    message.content[ARRAYS] = to_record(broadcast)
    reply = call_next(message, context)
    if reply.has_error():
        return reply

    worked = time.perf_counter()
    content = RecordDict(dict(reply.content.items()))
    since: dict[str, int] = {}
    if ARRAYS in content:
        tree = to_tree(content.array_records[ARRAYS], like=here.theta0)
        content[ARRAYS], since = _encode(tree, broadcast, here, message, context)
    content[TIMING] = ConfigRecord(
        {
            "decode": decoded - began,
            "work": worked - decoded,
            "encode": time.perf_counter() - worked,
            **since,
        }
    )
    reply.content = content
    return reply


def _encode(
    tree: Tree, broadcast: Tree, here: Session, message: Message, context: Context
) -> tuple[ArrayRecord, dict[str, int]]:
    """Return the packed update, and for a codec that remembers, which state it started from."""
    partition, server_round = readers.turn(message, here.cfg)
    reference = here.reference(broadcast)
    seed = turn_seed(here.cfg.seed, server_round, partition)
    since = {}
    if here.up.remembers:
        memory = Memory(context.state, partition, disk.folders(context))
        accepted = readers.integer(readers.record(message), ACCEPTED, 0, server_round - 1)
        state, since[SINCE] = memory.recall(accepted, here.up, reference, seed)
        wire, state = here.up.encode(tree, state, reference)
        memory.remember(server_round, state)
    else:
        wire, _ = here.up.encode(tree, here.up.init(reference, seed), reference)
    return pack_record(pack(wire, here.up, here.manifest)), since
