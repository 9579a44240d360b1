"""Makes a SuperNode hostile, if this folder is first in its PYTHONPATH.

The variable HOSTILE names a JSON file: round -> name of an attack of ``ATTACKS``. Python imports
this module at the start of every process; it acts only in processes that load the ClientApp.
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
    """Change the replies to training."""
    honest = type(app).__call__

    def answer(self, message, context):
        reply = honest(self, message, context)
        plan = json.loads(Path(os.environ["HOSTILE"]).read_text())
        if message.metadata.message_type == "train":
            from fl_app.wire.envelope import whom

            server_round = str(whom(message)["server-round"])
            if server_round in plan:
                ATTACKS[plan[server_round]](reply)
        return reply

    type(app).__call__ = answer


def frame(reply) -> bytes:
    from fl_app.wire.envelope import opened
    from fl_app.wire.heads import REPLY

    return opened(reply.content, REPLY)[1]


def put(reply, data: bytes) -> None:
    from fl_app.wire.envelope import enclosed, opened
    from fl_app.wire.heads import REPLY

    said, _ = opened(reply.content, REPLY)
    for name, record in enclosed(data, REPLY.write(said)).items():
        reply.content[name] = record


def nan(reply) -> None:
    """Send a valid frame with NaN: its last section is fp32."""
    import struct
    import zlib

    data = bytearray(frame(reply))
    data[-400:] = b"\xff" * 400
    data[18:22] = struct.pack("<I", zlib.crc32(data[22:], zlib.crc32(data[:18])))
    put(reply, bytes(data))


def huge(reply) -> None:
    """Send a frame of HUGE bytes."""
    size = int(os.environ["HUGE"])
    put(reply, frame(reply)[:22] + os.urandom(2**20) * (size // 2**20))


def empty(reply) -> None:
    """Send no records at all."""
    from flwr.app import RecordDict

    reply.content = RecordDict()


ATTACKS = {f.__name__: f for f in (nan, huge, empty)}
if "HOSTILE" in os.environ:
    sys.meta_path.insert(0, Hook())
