"""Makes a SuperNode hostile, if this folder is first in its PYTHONPATH.

The variable HOSTILE names a JSON file: round -> name of an attack of ``ATTACKS``; and optionally
"serves" -> the answer to which clients the node serves. Python imports this module at the start of
every process; it acts only in processes that load the ClientApp.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path


class Hook(importlib.abc.MetaPathFinder):
    """Loads the ClientApp as usual, then tampers with it."""

    def find_spec(self, name, path, target=None):
        if name != "fl_app.client_app":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def loaded(module) -> None:
            load(module)
            tamper(module.app)

        spec.loader.exec_module = loaded
        return spec


def tamper(app) -> None:
    """Change the replies to training, and the answer to which clients the node serves."""
    from flwr.app import ConfigRecord, RecordDict

    honest = type(app).__call__

    def answer(self, message, context):
        reply = honest(self, message, context)
        plan = json.loads(Path(os.environ["HOSTILE"]).read_text())
        if message.metadata.message_type == "query" and "serves" in plan:
            reply.content = RecordDict({"node": ConfigRecord(plan["serves"])})
        if message.metadata.message_type == "train":
            server_round = str(message.content["config"]["server-round"])
            if server_round in plan:
                ATTACKS[plan[server_round]](reply)
        return reply

    type(app).__call__ = answer


def frame(reply) -> bytes:
    return reply.content["arrays"]["frame"].data


def put(reply, data: bytes) -> None:
    from fl_app.wire.records import pack_record

    reply.content["arrays"] = pack_record(data)


def garbage(reply) -> None:
    """Send random bytes."""
    put(reply, os.urandom(5000))


def damaged(reply) -> None:
    """Flip one bit of the frame."""
    data = bytearray(frame(reply))
    data[len(data) // 2] ^= 1
    put(reply, bytes(data))


def _forged(reply, change) -> None:
    import struct
    import zlib

    data = bytearray(frame(reply))
    change(data)
    data[28:32] = struct.pack("<I", zlib.crc32(data[32:], zlib.crc32(data[:28])))
    put(reply, bytes(data))


def theta0(reply) -> None:
    """Send a valid frame of another theta0."""

    def change(data: bytearray) -> None:
        data[16:24] = bytes(8)

    _forged(reply, change)


def nan(reply) -> None:
    """Send a valid frame with NaN: its last section is fp32."""

    def change(data: bytearray) -> None:
        data[-400:] = b"\xff" * 400

    _forged(reply, change)


def weight(reply) -> None:
    """Send an honest model with an absurd number of examples."""
    reply.content["metrics"]["num-examples"] = 10**15


def loss(reply) -> None:
    """Send a loss that is NaN."""
    reply.content["metrics"]["loss"] = float("nan")


def huge(reply) -> None:
    """Send a frame of HUGE bytes whose header states that length."""
    size = int(os.environ["HUGE"])
    head = frame(reply)[:24] + (size - 32).to_bytes(4, "little") + bytes(4)
    put(reply, head + os.urandom(2**20) * (size // 2**20))


def empty(reply) -> None:
    """Send no records at all."""
    from flwr.app import RecordDict

    reply.content = RecordDict()


ATTACKS = {f.__name__: f for f in (garbage, damaged, theta0, nan, weight, loss, huge, empty)}
if "HOSTILE" in os.environ:
    sys.meta_path.insert(0, Hook())
