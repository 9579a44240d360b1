"""The change since what this sender has sent before, which both ends remember."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fl_app.codecs import base
from fl_app.codecs.base import Codec, CodecError, State, Wire, WireError
from fl_app.codecs.checks import check_terminal, check_tree, is_finite
from fl_app.codecs.registry import register
from fl_app.tree import Tree, zeros


@register("shift")
def shift(inner: Codec) -> Codec:
    """Send ``q = C(x - h)``; both ends set ``h <- h + q``, and h is what is decoded.

    C is ``inner`` and h starts at zero. If x changes slowly, x - h gets small and so does the error
    of a codec whose error is relative to what it encodes; h is also an estimate of x for a server
    that does not hear from the sender in a round.

    Sections, rate and errors raised: those of ``inner``. State of the sender: h, and what inner
    remembers at both ends; of the receiver, per sender: the same h, bit for bit, and inner's
    memory.

    Parameters
    ----------
    inner : Codec
        The codec of the change, one that leaves no rest.

    Raises
    ------
    ValueError
        inner leaves a rest.
    CodecError
        In encode: what inner raises; x - h or h + q beyond float32.
    WireError
        In decode: what inner raises; h + q beyond float32.

    References
    ----------
    Mishchenko et al., DIANA, arXiv 1901.09269, algorithm 1 with alpha = 1; the form that SCALLION,
    SCAFCOM (Huang et al., arXiv 2308.08165) and AQUILA share.
    """
    check_terminal("shift", inner)

    def init(ref: Tree, seed: int = 0) -> State:
        return zeros(ref), inner.init(ref, seed), inner.init_receiver(ref)

    def moved(h: Tree, q: Tree) -> Tree | None:
        """Return h + q in the memory of q; None where it is beyond float32."""
        total = {}
        with np.errstate(over="ignore"):
            for name, change in q.items():
                total[name] = np.add(h[name], change, out=change)
                if not is_finite(change):
                    return None
        return total

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        check_tree(tree, ref)
        h, inner_state, memory = state
        with np.errstate(over="ignore", invalid="ignore"):
            change = {n: np.subtract(x, h[n], out=np.empty_like(x)) for n, x in tree.items()}
        wire, inner_state = inner.encode(change, inner_state, ref)
        q, memory = base.receive(inner, wire, ref, memory)
        h = moved(h, q)
        if h is None:
            raise CodecError("shift: the sum of what was sent is beyond float32")
        return wire, (h, inner_state, memory)

    def init_receiver(ref: Tree) -> State:
        return zeros(ref), inner.init_receiver(ref)

    def receive(wire: Wire, ref: Tree, memory: State) -> tuple[Tree, State]:
        h, inner_memory = memory
        q, inner_memory = base.receive(inner, wire, ref, inner_memory)
        h = moved(h, q)
        if h is None:
            raise WireError("shift: the sum of what was received is beyond float32")
        return {name: x.copy() for name, x in h.items()}, (h, inner_memory)

    return replace(
        inner,
        init=init,
        encode=encode,
        decode=lambda wire, ref: receive(wire, ref, init_receiver(ref))[0],
        remembers=True,
        init_receiver=init_receiver,
        receive=receive,
    )
