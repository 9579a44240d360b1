"""Several named Trees in one message, each with a codec of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_app.codecs import base
from fl_app.codecs.base import Codec, State, Stream, Wire, WireError
from fl_app.codecs.checks import check_terminal, check_tree
from fl_app.codecs.registry import register
from fl_app.tree import Tree

MODEL = "model"
"""The part whose tensors keep their names."""


def join(parts: Mapping[str, Tree]) -> Tree:
    """Return the parts as one Tree: ``NAME`` for a tensor of the model, else ``PART/NAME``."""
    return {
        name if part == MODEL else f"{part}/{name}": values
        for part, tree in parts.items()
        for name, values in tree.items()
    }


def separate(tree: Tree, names: Sequence[str]) -> dict[str, Tree]:
    """Return the parts ``names`` of a Tree that `join` made."""
    parts: dict[str, Tree] = {name: {} for name in names}
    for name, values in tree.items():
        part, slash, rest = name.partition("/")
        if slash and part in parts and part != MODEL:
            parts[part][rest] = values
        else:
            parts[MODEL][name] = values
    return parts


@register("by_part")
def by_part(*codecs: Codec, names: Sequence[str]) -> Codec:
    """Encode part ``names[i]`` with ``codecs[i]``.

    The Tree is the parts in one (see `join`). Sections and states are those of the codecs, in
    order; the rate is the sum of theirs, the error of a part its codec's.

    Parameters
    ----------
    *codecs : Codec
        One for each part, each of which leaves no rest.
    names : sequence of str
        The parts, different and without a slash.

    Raises
    ------
    ValueError
        The numbers of codecs and names differ, a name is no text, occurs twice or has a slash, or
        a codec leaves a rest.
    CodecError
        In encode: those of the codecs.
    WireError
        In decode: another number of sections, and those of the codecs.
    """
    _check_arguments(codecs, names)
    names = list(names)
    ends = [sum(codec.sections for codec in codecs[: i + 1]) for i in range(len(codecs))]

    def cut(tree: Tree) -> list[Tree]:
        if MODEL not in names and (lost := [n for n in tree if n.partition("/")[0] not in names]):
            raise ValueError(f"by_part: '{lost[0]}' belongs to none of the parts {names}")
        parts = separate(tree, names)
        return [parts[name] for name in names]

    def init(ref: Tree, seed: int = 0) -> tuple[State, ...]:
        return tuple(c.init(r, seed) for c, r in zip(codecs, cut(ref), strict=True))

    def encode(tree: Tree, state: tuple[State, ...], ref: Tree) -> tuple[Wire, tuple[State, ...]]:
        check_tree(tree, ref)
        sections: list[bytes] = []
        states: list[State] = []
        for codec, part, kept, part_ref in zip(codecs, cut(tree), state, cut(ref), strict=True):
            wire, after = codec.encode(part, kept, part_ref)
            sections.extend(wire.sections)
            states.append(after)
        return Wire(tuple(sections)), tuple(states)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        return tuple(
            stream for c, r in zip(codecs, cut(ref), strict=True) for stream in c.streams(r)
        )

    def init_receiver(ref: Tree) -> tuple[State, ...]:
        return tuple(c.init_receiver(r) for c, r in zip(codecs, cut(ref), strict=True))

    def receive(wire: Wire, ref: Tree, memory: tuple[State, ...]) -> tuple[Tree, tuple[State, ...]]:
        if len(wire.sections) != ends[-1]:
            raise WireError(f"{len(wire.sections)} sections, expected {ends[-1]}")
        parts: dict[str, Tree] = {}
        kept = list(memory)
        for i, (name, codec, part_ref) in enumerate(zip(names, codecs, cut(ref), strict=True)):
            part = Wire(wire.sections[ends[i] - codec.sections : ends[i]])
            parts[name], kept[i] = base.receive(codec, part, part_ref, kept[i])
        whole = join(parts)
        return {name: whole[name] for name in ref}, tuple(kept)

    return Codec(
        init,
        encode,
        lambda wire, ref: receive(wire, ref, init_receiver(ref))[0],
        ends[-1],
        streams,
        remembers=any(codec.remembers for codec in codecs),
        init_receiver=init_receiver,
        receive=receive if any(codec.receive for codec in codecs) else None,
    )


def _check_arguments(codecs: Sequence[Codec], names: Sequence[str]) -> None:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"by_part: names should be a list, got {names!r}")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"by_part: names should be texts, got {names!r}")
    if not names or len(codecs) != len(names):
        raise ValueError(f"by_part: {len(codecs)} codecs for {len(names)} names of parts")
    if len({*names}) != len(names) or not all(name and "/" not in name for name in names):
        raise ValueError(f"by_part: names should be different and without '/', got {names!r}")
    for codec in codecs:
        check_terminal("by_part", codec)
