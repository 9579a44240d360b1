"""Error feedback: what a lossy codec left out is added to what is sent next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fl_app.codecs import base
from fl_app.codecs.base import Codec, CodecError, State, Wire
from fl_app.codecs.checks import check_terminal, check_tree, is_finite
from fl_app.codecs.registry import register
from fl_app.tree import Tree, zeros


@register("error_feedback")
def error_feedback(inner: Codec, decay: float = 1.0) -> Codec:
    """Send ``C(x + decay * e)`` and keep ``e <- x + decay * e - C(x + decay * e)``.

    C is ``inner``. With decay 1 nothing is ever lost: over any number of messages, sum of decoded +
    e = sum of x. It suits values that are themselves changes, so put it after ``delta``.

    Sections, rate and errors raised: those of ``inner``. State: the residual e, a Tree that starts
    at zero, and what inner remembers at both ends. Only the sender has it; the receiver decodes
    with inner.

    Parameters
    ----------
    inner : Codec
        The lossy codec, one that leaves no rest.
    decay : float
        In [0, 1]. Below 1 the residual of a client that was away for long counts less.

    Raises
    ------
    ValueError
        inner leaves a rest, or another decay.
    CodecError
        In encode: what inner raises; x + decay * e beyond float32.

    References
    ----------
    Seide et al. 2014; Karimireddy et al., Error Feedback Fixes SignSGD, arXiv 1901.09847, algorithm
    2 (EF-SGD, lines 4 to 7, without the step size).
    """
    check_terminal("error_feedback", inner)
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay <= 1:
        raise ValueError(f"error_feedback: decay must be in [0, 1], got {decay!r}")

    def init(ref: Tree, seed: int = 0) -> State:
        return zeros(ref), inner.init(ref, seed), inner.init_receiver(ref)

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        check_tree(tree, ref)
        residual, inner_state, memory = state
        target = {}
        with np.errstate(over="ignore", under="ignore"):
            for name, x in tree.items():
                target[name] = np.add(x, np.float32(decay) * residual[name], out=np.empty_like(x))
        wire, inner_state = inner.encode(target, inner_state, ref)
        sent, memory = base.receive(inner, wire, ref, memory)
        for name, x in target.items():
            with np.errstate(over="ignore"):
                np.subtract(x, sent[name], out=x)
            if not is_finite(x):
                raise CodecError(f"{name!r}: what is left to send is beyond float32")
        return wire, (target, inner_state, memory)

    return replace(inner, init=init, encode=encode, remembers=True)
