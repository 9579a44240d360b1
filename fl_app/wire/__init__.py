"""What travels: frames, messages and what they weigh."""

from fl_app.wire.frame import WireError, pack, unpack

__all__ = ["WireError", "pack", "unpack"]
