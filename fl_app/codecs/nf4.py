"""4-bit NormalFloat (skeleton)."""

from __future__ import annotations

from fl_app.codecs.base import Codec, Tree, Wire, register, stateless


@register("nf4")
def nf4(block: int = 64) -> Codec:
    """Skeleton."""

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        raise NotImplementedError

    def decode(wire: Wire, ref: Tree) -> Tree:
        raise NotImplementedError

    return Codec(stateless, encode, decode, sections=2)
