"""The way down: the model as one coded frame, coded once however many clients get it."""

import time
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord

from fl_app.codecs import State
from fl_app.session import Session
from fl_app.tree import Tree
from fl_app.wire.frame import pack, unpack
from fl_app.wire.records import to_tree


@dataclass
class Coding:
    """A model and the frame that carries it."""

    decoded: Tree
    frame: bytes
    payload_bytes: int
    encode_s: float = 0.0


class Downlink:
    """Codes models with ``codec.down``, whose memory it keeps.

    Parameters
    ----------
    session : Session
        Codec and theta0 of the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._memory: State = None
        self._known: tuple[ArrayRecord, Coding] | None = None  # the last model and its frame

    def encode(self, arrays: ArrayRecord) -> Coding:
        """Code ``arrays``, unless they are the very record that was coded last or is relayed."""
        if self._known is None or self._known[0] is not arrays:
            here = self.session
            began = time.perf_counter()
            tree = to_tree(arrays, like=here.theta0)
            if self._memory is None:
                self._memory = here.down.init(here.theta0, here.cfg.seed)
            wire, self._memory = here.down.encode(tree, self._memory, here.theta0)
            frame = pack(wire, here.down, here.manifest)
            seconds = time.perf_counter() - began
            decoded = here.down.decode(wire, here.theta0)
            self._known = arrays, Coding(decoded, frame, wire.nbytes, seconds)
        return self._known[1]

    def relays(self) -> bool:
        """Return whether a client's frame means the same on its way down to the next one."""
        here = self.session
        same_meaning = here.up.spec == here.down.spec and here.up.receive is None
        return bool(same_meaning and here.cfg.codec.reference == "theta0")

    def relay(self, arrays: ArrayRecord, coding: Coding) -> None:
        """Send ``arrays`` on in the bytes that they came in."""
        self._known = arrays, coding

    def state(self, arrays: ArrayRecord) -> dict[str, Any]:
        """Return what `restore` needs: the codec's memory, and the frame of ``arrays`` if known."""
        known = self._known is not None and self._known[0] is arrays
        frame = self._known[1].frame if self._known and known else None
        return {"memory": self._memory, "frame": frame}

    def restore(self, state: dict[str, Any], arrays: ArrayRecord) -> None:
        """Go on from ``state`` with the model ``arrays``."""
        here = self.session
        self._memory = state["memory"]
        if state["frame"] is not None:
            wire = unpack(state["frame"], here.down, here.manifest)
            decoded = here.down.decode(wire, here.theta0)
            self._known = arrays, Coding(decoded, state["frame"], wire.nbytes)
