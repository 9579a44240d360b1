"""What a codec is: the types, the two errors, the checks and the registry that all of them share.

A codec is a pair of pure functions with a JSON name, composed like optax's gradient
transformations and identified like numcodecs' codecs. It never holds state: the sender does, and
passes it in and out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fl_app.faults import FaultError
from fl_app.faults.printable import printable
from fl_app.tree import Tree

MOST_SAID = 1000  # characters of a WireError


Spec = dict[str, Any]
"""JSON mapping that names a codec: ``{"id": "nf4", "block": 64}``. Data, never code."""


class CodecError(FaultError):
    """The sender handed a codec something that it cannot encode."""

    def __init__(self, text: str, kind: str = "codec") -> None:
        super().__init__(kind, text)


class WireError(FaultError):
    """The receiver got bytes that are not what an honest sender writes.

    What the text quotes of them is made printable, and cut.

    Parameters
    ----------
    text : str
        What is wrong.
    kind, facts
        See `FaultError`.
    """

    def __init__(self, text: str, kind: str = "wire", **facts: int | str) -> None:
        super().__init__(kind, printable(text, most=MOST_SAID), **facts)


@dataclass(frozen=True)
class Stream:
    """What a section holds: ``count`` symbols of ``bits`` bits each, packed without gaps.

    Symbols are packed most significant bit first, the last byte filled up with zero bits. Symbols
    of 8 bits are plain bytes.

    Attributes:
        bits: bits of a symbol: 1, 2, 4 or 8.
        count: symbols; at most so many if ``variable``.
        variable: True for a section whose length follows from the values.
    """

    bits: int
    count: int
    variable: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the section; at most so many if ``variable``."""
        return -(-self.bits * self.count // 8)


@dataclass(frozen=True, eq=False)
class Wire:
    """What a link of a codec wrote.

    Attributes:
        sections: the bytes to send, one entry per section of the codec.
        rest: the values that the next link has still to encode; empty when nothing is left.
    """

    sections: tuple[bytes, ...]
    rest: Tree = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Payload in bytes: the lengths of the sections, without any framing."""
        return sum(map(len, self.sections))


State = Any
"""What one end remembers: a float32 or uint64 array, a Tree, or a tuple of States; ``()`` is none.

Nothing else, so that it can be written to a record and read back into the shape of a fresh one.
"""


def stateless(ref: Tree, seed: int = 0) -> State:
    """``init`` of a codec that remembers nothing."""
    del ref, seed
    return ()


def unchanged(ref: Tree) -> Tree:
    """``narrow`` of a link whose rest has the names and shapes of its input."""
    return ref


@dataclass(frozen=True, eq=False)
class Codec:
    """A pure pair of functions that turns a Tree into bytes and back.

    ``ref`` is a Tree that both sides hold, with the names and shapes of the Tree to send (theta0,
    or this round's decoded broadcast). ``delta`` uses its values, most codecs only its shapes.

    Attributes:
        init: ``init(ref, seed=0) -> state``, what the sender remembers between calls; ``()`` for
            nothing. ``seed`` feeds the draws of stochastic codecs.
        encode: ``encode(tree, state, ref) -> (Wire, state)``. Raises CodecError.
        decode: ``decode(wire, ref) -> Tree``, writable arrays, new or those of ``wire.rest``, which
            it may overwrite. Raises WireError, and nothing else, on sections that do not fit
            ``ref``. For a codec whose receiver remembers, it
            decodes the first message of a sender.
        sections: how many sections it writes.
        streams: ``streams(ref) -> tuple[Stream, ...]``, what each section holds.
        terminal: True when encode leaves no rest, so that nothing can follow it in a chain.
        narrow: ``narrow(ref) -> Tree`` with the names and shapes of the rest, out of those of the
            input alone.
        remembers: True when losing the sender's state loses information.
        init_receiver: ``init_receiver(ref) -> memory``, what the receiver remembers per sender.
        receive: ``receive(wire, ref, memory) -> (Tree, memory)``, decode with that memory; None
            for a codec whose receiver remembers nothing.
        spec: JSON mapping that rebuilds it with `from_spec`; set by `register`.
    """

    init: Callable[..., State]
    encode: Callable[[Tree, State, Tree], tuple[Wire, State]]
    decode: Callable[[Wire, Tree], Tree]
    sections: int
    streams: Callable[[Tree], tuple[Stream, ...]]
    terminal: bool = True
    narrow: Callable[[Tree], Tree] = unchanged
    remembers: bool = False
    init_receiver: Callable[[Tree], State] = stateless
    receive: Callable[[Wire, Tree, State], tuple[Tree, State]] | None = None
    spec: Spec = field(default_factory=dict)

    @property
    def fingerprint(self) -> bytes:
        """First 8 bytes of the SHA-256 of the canonical JSON of the spec."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()[:8]


def receive(codec: Codec, wire: Wire, ref: Tree, memory: State) -> tuple[Tree, State]:
    """Decode with the receiver's memory of this sender, where the codec has one.

    Raises:
        WireError: as ``codec.decode``.
    """
    if codec.receive is None:
        return codec.decode(wire, ref), memory
    return codec.receive(wire, ref, memory)


# --- registry -------------------------------------------------------------------------------------


# --- checks ---------------------------------------------------------------------------------------


def terminal(wrapper: str, inner: Codec) -> None:
    """Refuse an inner codec that leaves a rest: its wrapper could not see the loss after it.

    Raises:
        ValueError: naming both.
    """
    if not isinstance(inner, Codec):
        raise ValueError(f"{wrapper}: inner must be a codec, got {inner!r}")
    if not inner.terminal:
        raise ValueError(
            f"{wrapper}: {inner.spec['id']!r} leaves values to encode; wrap the whole chain,"
            " as in {id: chain, links: [{id: top_k}, {id: nf4}]}"
        )
