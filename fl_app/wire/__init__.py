"""What travels: frames, messages and what they weigh.

- ``frame``: a codec's bytes with a header. ``tensors``: such a frame that describes itself.
  ``former``: frames of the version before, on disks.
- ``heads``, ``envelope``: what every message says in front of its frame, and where both are.
- ``messages``, ``records``, ``readers``, ``forms``, ``patch``: what else messages hold.
- ``ledger``, ``conventions``: what they weigh. ``checks``: the rules of ``codec``.
"""

from fl_app.wire.frame import WireError, pack, unpack

__all__ = ["WireError", "pack", "unpack"]
