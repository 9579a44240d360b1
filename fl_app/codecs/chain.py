"""Links in a row: each writes its sections and passes the rest on."""

from __future__ import annotations

from typing import Any

from fl_app.codecs.base import Codec, Tree, Wire, WireError, register


@register("chain")
def chain(*links: Codec) -> Codec:
    """Compose links: the rest that one leaves is the tree that the next one encodes.

    ``encode = links[-1] o ... o links[0]`` and ``decode`` runs them backwards. The sections are
    those of the links in order; the state is the tuple of the links' states. All links see the
    same ``ref``. Its rate is the sum of the rates of its links, its error what the last link
    loses, seen through the others. After optax.chain.

    Raises:
        ValueError: no link, a link that is not a codec, or a terminal link before the end.
    """
    if not links:
        raise ValueError("chain needs at least one link")
    for link in links:
        if not isinstance(link, Codec):
            raise ValueError(f"a link must be a codec, got {link!r}")
    for link in links[:-1]:
        if link.terminal:
            raise ValueError(f"{link.spec['id']!r} leaves no rest: it must be the last link")
    sections = sum(link.sections for link in links)

    def init(ref: Tree) -> tuple[Any, ...]:
        return tuple(link.init(ref) for link in links)

    def encode(tree: Tree, state: tuple[Any, ...], ref: Tree) -> tuple[Wire, tuple[Any, ...]]:
        written: list[bytes] = []
        states: list[Any] = []
        for link, link_state in zip(links, state, strict=True):
            wire, link_state = link.encode(tree, link_state, ref)
            tree = wire.rest
            written.extend(wire.sections)
            states.append(link_state)
        return Wire(tuple(written), tree), tuple(states)

    def decode(wire: Wire, ref: Tree) -> Tree:
        if len(wire.sections) != sections:
            raise WireError(f"{len(wire.sections)} sections, expected {sections}")
        tree, end = wire.rest, sections
        for link in reversed(links):
            start = end - link.sections
            tree = link.decode(Wire(wire.sections[start:end], tree), ref)
            end = start
        return tree

    return Codec(init, encode, decode, sections, terminal=links[-1].terminal)
