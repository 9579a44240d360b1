"""What a codec is: its types and its two errors.

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

import numpy as np
from numpy.typing import NDArray

from fl_app.faults import FaultError
from fl_app.faults.printable import printable
from fl_app.tree import Tree

LONGEST = 1000
"""Characters of the text of a `WireError`."""

Spec = dict[str, Any]
"""JSON mapping that names a codec: ``{"id": "nf4", "block": 64}``. Data, never code."""

State = Any
"""What one end remembers: a float32 or uint64 array, a Tree, or a tuple of States; ``()`` is none.

Nothing else, so that it can be written to a record and read back into the shape of a fresh one.
"""


class CodecError(FaultError):
    """The sender handed a codec something that it cannot encode.

    Parameters
    ----------
    text : str
        What is wrong, and how to mend it.
    kind : str
        See `FaultError`.
    """

    def __init__(self, text: str, kind: str = "codec") -> None:
        super().__init__(kind, text)


class WireError(FaultError):
    """The receiver got bytes that no honest sender writes.

    Parameters
    ----------
    text : str
        What is wrong. It may quote the bytes: it is made printable, and cut to `LONGEST`.
    kind, facts
        See `FaultError`.
    """

    def __init__(self, text: str, kind: str = "wire", **facts: int | str) -> None:
        super().__init__(kind, printable(text, most=LONGEST), **facts)


@dataclass(frozen=True)
class Stream:
    """What a section holds: symbols of a fixed number of bits, packed without gaps.

    Symbols are packed most significant bit first, the last byte filled up with zero bits. Symbols
    of 8 bits are plain bytes.

    Attributes
    ----------
    bits : int
        Bits of a symbol: 1, 2, 4 or 8.
    count : int
        Number of symbols; the largest possible if ``variable``.
    variable : bool
        True for a section whose length depends on the values.
    tensors : tuple of float32 arrays
        Where each symbol is the number of the level of one value, as `zigzag` has them: the
        reference of these values, tensor by tensor.
    """

    bits: int
    count: int
    variable: bool = False
    tensors: tuple[NDArray[np.float32], ...] = field(default=(), compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the section; the most possible if ``variable``."""
        return -(-self.bits * self.count // 8)


@dataclass(frozen=True, eq=False)
class Wire:
    """What a link of a codec wrote.

    Attributes
    ----------
    sections : tuple of bytes
        The bytes to send, one entry per section of the codec.
    rest : Tree
        The values that the next link has still to encode; empty when nothing is left.
    """

    sections: tuple[bytes, ...]
    rest: Tree = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Payload in bytes: the lengths of the sections, without any framing."""
        return sum(map(len, self.sections))


def stateless(ref: Tree, seed: int = 0) -> State:
    """Return the state of a codec that remembers nothing."""
    del ref, seed
    return ()


def unchanged(ref: Tree) -> Tree:
    """Return the names and shapes of a rest that has those of the input."""
    return ref


@dataclass(frozen=True, eq=False)
class Codec:
    """A pair of pure functions that turn a Tree into bytes and back.

    ``ref`` is a Tree that both sides hold, with the names and shapes of the Tree to send (theta0,
    or this round's decoded broadcast). ``delta`` uses its values, most codecs only its shapes.

    Attributes
    ----------
    init : callable
        ``init(ref, seed=0) -> state``, what the sender remembers between calls; ``()`` for
        nothing. ``seed`` feeds the draws of stochastic codecs.
    encode : callable
        ``encode(tree, state, ref) -> (Wire, state)``. Raises CodecError.
    decode : callable
        ``decode(wire, ref) -> Tree`` of writable arrays: new ones, or those of ``wire.rest``, which
        it may overwrite. Raises WireError, and nothing else, on sections that do not fit ``ref``.
        Where the receiver remembers, it decodes a sender's first message.
    sections : int
        How many sections it writes.
    streams : callable
        ``streams(ref) -> tuple[Stream, ...]``, what each section holds.
    terminal : bool
        True when encode leaves no rest, so that nothing can follow in a chain.
    narrow : callable
        ``narrow(ref) -> Tree`` with the names and shapes of the rest; of ref it sees only names and
        shapes.
    remembers : bool
        True when losing the sender's state loses information.
    init_receiver : callable
        ``init_receiver(ref) -> memory``, what the receiver remembers of each sender.
    receive : callable or None
        ``receive(wire, ref, memory) -> (Tree, memory)``, decode with that memory; None where the
        receiver remembers nothing.
    spec : dict
        JSON mapping from which `from_spec` builds the same codec; set by `register`.
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

    Raises
    ------
    WireError
        As ``codec.decode``.
    """
    if codec.receive is None:
        return codec.decode(wire, ref), memory
    return codec.receive(wire, ref, memory)
