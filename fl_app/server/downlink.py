"""The way down: every part of a message is coded once, however many clients get it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord

from fl_app.codecs import Codec, State, Wire
from fl_app.codecs.by_part import MODEL
from fl_app.session import Session
from fl_app.tree import Tree, same_bits
from fl_app.wire import former
from fl_app.wire.forms import Form
from fl_app.wire.frame import pack, unpack
from fl_app.wire.records import to_tree


def length(arrays: ArrayRecord) -> int:
    """Return the number of rows of a ragged part's tensors; ValueError if they differ."""
    (rows,) = {array.shape[0] for array in arrays.values()}
    return rows


Stream = tuple[str, bytes]
"""A part and the fingerprint of the codec that it is coded with, whose memory goes on."""


@dataclass
class Coding:
    """A part as it travels, and as it arrives."""

    decoded: Tree
    wire: Wire
    encode_s: float = 0.0


class Downlink:
    """Codes the parts of a round's messages; keeps the codecs' memories.

    Parameters
    ----------
    session : Session
        Codecs, forms and theta0 of the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._memory: dict[Stream, State] = {}
        self._known: dict[Stream, tuple[ArrayRecord, Coding]] = {}  # what was coded last

    @property
    def _model(self) -> Stream:
        return MODEL, self.session.down.fingerprint

    def encode(self, arrays: ArrayRecord, part: str = MODEL, codec: Codec | None = None) -> Coding:
        """Code a part, unless it is the very record that was coded last or is relayed.

        Parameters
        ----------
        codec : Codec or None
            None for ``codec.down``.
        """
        here = self.session
        codec = codec or here.down
        stream = part, codec.fingerprint
        known = self._known.get(stream)
        if known is None or known[0] is not arrays:
            began = time.perf_counter()
            like = here.like(part)
            if part != MODEL and {*arrays} != {*like}:
                raise ValueError(
                    f"part '{part}' has the tensors {sorted(arrays)[:3]}, and its LocalMethod.like "
                    f"{sorted(like)[:3]}: override `like` for a part of other names or shapes"
                )
            if part in here.method.ragged:
                like = here.like_of(part, length(arrays))
            tree = to_tree(arrays, like=like)
            if stream not in self._memory:
                self._memory[stream] = codec.init(like, here.cfg.seed)
            wire, self._memory[stream] = codec.encode(tree, self._memory[stream], like)
            seconds = time.perf_counter() - began
            known = arrays, Coding(codec.decode(wire, like), wire, seconds)
            self._known[stream] = known
        return known[1]

    def frame(self, form: Form, codings: Mapping[str, Coding]) -> bytes:
        """Return the frame of a message of ``form`` that carries these parts."""
        sections = [section for part in form.down.codecs for section in codings[part].wire.sections]
        return pack(Wire(tuple(sections)), form.down.whole, self.session.manifest)

    def relays(self, broadcast: Tree) -> bool:
        """Return whether a client's model means the same on its way down to the next one.

        Parameters
        ----------
        broadcast : Tree
            What the client started from: it may be the reference of its reply.
        """
        here = self.session
        same_codec = here.up.spec == here.down.spec and here.up.receive is None
        return same_codec and same_bits(here.reference(broadcast), here.theta0)

    def relay(self, arrays: ArrayRecord, coding: Coding) -> None:
        """Send the model ``arrays`` on in the bytes that it came in."""
        self._known[self._model] = arrays, coding

    def state(self, arrays: ArrayRecord) -> dict[str, Any]:
        """Return what `restore` needs: memories, and the frame of the model ``arrays`` if known."""
        here, known = self.session, self._known.get(self._model)
        frame = None
        if known is not None and known[0] is arrays:
            frame = pack(known[1].wire, here.down, here.manifest)
        others = [[*stream, kept] for stream, kept in self._memory.items() if stream != self._model]
        return {"memory": self._memory.get(self._model), "frame": frame, "others": others}

    def restore(self, state: dict[str, Any], arrays: ArrayRecord) -> None:
        """Go on from ``state`` with the model ``arrays``."""
        here = self.session
        self._memory = {(part, codec): kept for part, codec, kept in state.get("others", [])}
        if state["memory"] is not None:
            self._memory[self._model] = state["memory"]
        if state["frame"] is not None:
            wire = unpack(former.today(state["frame"]), here.down, here.manifest)
            self.relay(arrays, Coding(here.down.decode(wire, here.theta0), wire))
