"""What a codec is: the types, the two errors, the checks and the registry that all of them share.

A codec is a pair of pure functions with a JSON name, composed like optax's gradient
transformations and identified like numcodecs' codecs. It never holds state: the sender does, and
passes it in and out.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.faults import FaultError
from fl_app.text import printable

MOST_SAID = 1000  # characters of a WireError

Tree = dict[str, NDArray[np.float32]]
"""Flat, ordered mapping name -> C-contiguous float32 array. Both sides know names and shapes."""

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

Factory = Callable[..., Codec]
_factories: dict[str, Factory] = {}


def register(codec_id: str) -> Callable[[Factory], Factory]:
    """Give a codec factory its id; the codecs it returns get their spec from its arguments.

    Arguments must be JSON values or codecs (``inner``, or ``*links`` for a sequence of them).

    Raises:
        ValueError: the id is taken.
    """

    def decorate(factory: Factory) -> Factory:
        if codec_id in _factories:
            raise ValueError(f"codec id {codec_id!r} is already registered")
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def build(*args: Any, **kwargs: Any) -> Codec:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            codec = factory(*bound.args, **bound.kwargs)
            spec = {name: _to_spec(value) for name, value in bound.arguments.items()}
            return replace(codec, spec={"id": codec_id, **spec})

        _factories[codec_id] = build
        return build

    return decorate


def known_ids() -> list[str]:
    """The registered ids, sorted."""
    return sorted(_factories)


def from_spec(spec: Mapping[str, Any]) -> Codec:
    """Build the codec that a spec names; ``from_spec(c.spec).spec == c.spec``.

    Args:
        spec: mapping with an ``id`` and the arguments of that codec's factory, as plain dicts,
            lists and scalars. A nested mapping is a codec again.

    Raises:
        ValueError: not such a mapping, an unknown id, an unknown, missing or wrong argument.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("id"), str):
        raise ValueError(
            f"a codec spec is a mapping with an 'id', one of {', '.join(known_ids())}; got {spec!r}"
        )
    codec_id = spec["id"]
    if codec_id not in _factories:
        raise ValueError(f"unknown codec id {codec_id!r}; known: {', '.join(known_ids())}")
    factory = _factories[codec_id]
    parameters = inspect.signature(factory).parameters
    accepted = ", ".join(parameters) or "none"
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in spec.items():
        if name == "id":
            continue
        if name not in parameters:
            raise ValueError(f"codec {codec_id!r} has no argument {name!r}; accepted: {accepted}")
        if parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL:
            kwargs[str(name)] = from_spec(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            args.extend(from_spec(item) for item in value)
        else:
            raise ValueError(f"codec {codec_id!r}: {name} must be a list of specs, got {value!r}")
    for name, parameter in parameters.items():
        optional = parameter.kind is parameter.VAR_POSITIONAL
        if not optional and parameter.default is parameter.empty and name not in spec:
            raise ValueError(f"codec {codec_id!r} needs argument {name!r}; accepted: {accepted}")
    return factory(*args, **kwargs)


def _to_spec(value: Any) -> Any:
    if isinstance(value, Codec):
        return value.spec
    return [_to_spec(item) for item in value] if isinstance(value, tuple) else value


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


def check_tree(tree: Tree, ref: Tree) -> None:
    """Refuse a Tree to encode whose names, order, shapes, dtype or layout are not those of ref.

    Raises:
        CodecError: naming the first tensor that differs and how to mend it.
    """
    if list(tree) != list(ref):
        missing = [name for name in ref if name not in tree]
        extra = [name for name in tree if name not in ref]
        raise CodecError(
            "the tensors are not those of the reference, in its order: "
            f"missing {missing[:3]}, unknown {extra[:3]}"
            + ("" if missing or extra else ", only the order differs")
            + "; build the tree from the reference: {name: values[name] for name in ref}"
        )
    for name, x in tree.items():
        if not isinstance(x, np.ndarray):
            raise CodecError(
                f"{name!r} is a {type(x).__name__}, not a numpy array;"
                " np.asarray(x), or from torch t.detach().cpu().float().numpy()"
            )
        if x.dtype != np.float32:
            raise CodecError(f"{name!r} has dtype {x.dtype}, not float32; use x.astype('float32')")
        if x.shape != ref[name].shape:
            raise CodecError(
                f"{name!r} has shape {x.shape}, the reference has {ref[name].shape};"
                " use the same adapter on both sides"
            )
        if not x.flags.c_contiguous:
            raise CodecError(f"{name!r} is not C-contiguous; use np.asarray(x, order='C')")


def check_sections(wire: Wire, streams: Sequence[Stream]) -> None:
    """Refuse sections that are not as many and as long as the reference asks for.

    Raises:
        WireError: naming the first section that differs.
    """
    if len(wire.sections) != len(streams):
        raise WireError(f"{len(wire.sections)} sections, expected {len(streams)}")
    for i, (section, stream) in enumerate(zip(wire.sections, streams, strict=True)):
        if len(section) > stream.nbytes or not (stream.variable or len(section) == stream.nbytes):
            most = "at most " if stream.variable else ""
            raise WireError(
                f"section {i} has {len(section)} bytes, the reference asks for {most}"
                f"{stream.nbytes}"
            )


def is_finite(x: NDArray[np.floating[Any]]) -> bool:
    """True when x holds neither NaN nor Inf. Two reductions, no temporary of the size of x."""
    return x.size == 0 or (
        math.isfinite(np.minimum.reduce(x, None)) and math.isfinite(np.maximum.reduce(x, None))
    )


def not_finite(name: str) -> CodecError:
    """The error for a tensor with NaN or Inf."""
    return CodecError(
        f"{name!r} holds NaN or Inf; the training diverged: lower the learning rate or clip"
        " gradients, and do not send this update",
        kind="diverged",
    )


def zeros(ref: Tree) -> Tree:
    """Return a Tree of zeros with the names and shapes of ref."""
    return {name: np.zeros_like(r) for name, r in ref.items()}


def split(flat: NDArray[np.float32], ref: Tree) -> Tree:
    """Cut a flat buffer of all values into views with the names and shapes of ref."""
    tree, start = {}, 0
    for name, r in ref.items():
        tree[name] = flat[start : start + r.size].reshape(r.shape)
        start += r.size
    return tree
