"""Links in a row: each writes its sections and passes the rest on."""

from __future__ import annotations

from fl_app.codecs import base
from fl_app.codecs.base import Codec, State, Stream, Wire, WireError
from fl_app.codecs.registry import register
from fl_app.tree import Tree


@register("chain")
def chain(*links: Codec) -> Codec:
    """Compose links: the rest that one leaves is the tree that the next one encodes.

    ``encode = links[-1] o ... o links[0]`` and ``decode`` runs them backwards. The sections are
    those of the links in order; the state is the tuple of the links' states. A link sees the
    ``ref`` that the links before it have narrowed. Its rate is the sum of the rates of its links,
    its error what the last link loses, seen through the others.

    Raises
    ------
    ValueError
        No link, a link that is not a codec, or a terminal link before the end.

    References
    ----------
    After optax.chain.
    """
    _check_links(links)
    sections = sum(link.sections for link in links)

    def references(ref: Tree) -> list[Tree]:
        """Return the reference of every link, and last that of the chain's rest."""
        refs = [ref]
        for link in links:
            refs.append(link.narrow(refs[-1]))
        return refs

    def init(ref: Tree, seed: int = 0) -> tuple[State, ...]:
        return tuple(link.init(r, seed) for link, r in zip(links, references(ref), strict=False))

    def encode(tree: Tree, state: tuple[State, ...], ref: Tree) -> tuple[Wire, tuple[State, ...]]:
        written: list[bytes] = []
        states: list[State] = []
        for link, link_state in zip(links, state, strict=True):
            wire, link_state = link.encode(tree, link_state, ref)
            tree, ref = wire.rest, link.narrow(ref)
            written.extend(wire.sections)
            states.append(link_state)
        return Wire(tuple(written), tree), tuple(states)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        refs = references(ref)
        return tuple(s for link, r in zip(links, refs, strict=False) for s in link.streams(r))

    def init_receiver(ref: Tree) -> tuple[State, ...]:
        return tuple(link.init_receiver(r) for link, r in zip(links, references(ref), strict=False))

    def receive(wire: Wire, ref: Tree, memory: tuple[State, ...]) -> tuple[Tree, tuple[State, ...]]:
        if len(wire.sections) != sections:
            raise WireError(f"{len(wire.sections)} sections, expected {sections}")
        refs, kept = references(ref), list(memory)
        tree, end = wire.rest, sections
        for i, link in reversed(list(enumerate(links))):
            start = end - link.sections
            part = Wire(wire.sections[start:end], tree)
            tree, kept[i] = base.receive(link, part, refs[i], kept[i])
            end = start
        return tree, tuple(kept)

    return Codec(
        init,
        encode,
        lambda wire, ref: receive(wire, ref, init_receiver(ref))[0],
        sections,
        streams,
        terminal=links[-1].terminal,
        narrow=lambda ref: references(ref)[-1],
        remembers=any(link.remembers for link in links),
        init_receiver=init_receiver,
        receive=receive if any(link.receive for link in links) else None,
    )


def _check_links(links: tuple[Codec, ...]) -> None:
    if not links:
        raise ValueError("chain needs at least one link")
    for link in links:
        if not isinstance(link, Codec):
            raise ValueError(f"a link must be a codec, got {link!r}")
    for link in links[:-1]:
        if link.terminal:
            raise ValueError(f"{link.spec['id']!r} leaves no rest: it must be the last link")
