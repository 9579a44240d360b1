"""Momentum correction: error feedback of velocities, so that a value sent late has gathered one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fl_app.codecs import base
from fl_app.codecs.base import Codec, CodecError, State, Wire
from fl_app.codecs.checks import check_terminal, check_tree, is_finite
from fl_app.codecs.registry import register
from fl_app.tree import Tree, zeros


@register("momentum_correction")
def momentum_correction(inner: Codec, momentum: float = 0.9, masking: bool = True) -> Codec:
    """Error feedback of momentum: ``u <- m u + x``, ``v <- v + u``, send ``q = C(v)``.

    C is ``inner``. Then ``v <- v - q`` and, with masking, ``u <- 0`` where q is not zero, so that
    the momentum from before a value was sent does not move it further. For an inner codec that is
    exact where it sends (``chain(top_k, fp32)``) this is DGC's ``v <- 0`` on the mask; for a
    quantizing one its error stays in v, so nothing is lost. Momentum 0 is
    ``error_feedback(inner)``.

    Sections, rate and errors raised: those of ``inner``. State: u and v, Trees that start at zero,
    and what inner remembers at both ends. Only the sender has it; the receiver decodes with inner.

    Parameters
    ----------
    inner : Codec
        A codec that leaves no rest.
    momentum : float
        m, in [0, 1).
    masking : bool
        DGC's momentum factor masking.

    Raises
    ------
    ValueError
        inner leaves a rest, or another momentum.
    CodecError
        In encode: what inner raises; u or v beyond float32.

    References
    ----------
    Lin et al., Deep Gradient Compression, arXiv 1712.01887, sections 3.1 and 3.2.
    """
    check_terminal("momentum_correction", inner)
    if type(momentum) not in (int, float) or not 0 <= momentum < 1:
        raise ValueError(f"momentum_correction: momentum must be in [0, 1), got {momentum!r}")
    if type(masking) is not bool:
        raise ValueError(f"momentum_correction: masking must be true or false, got {masking!r}")

    def init(ref: Tree, seed: int = 0) -> State:
        return zeros(ref), zeros(ref), inner.init(ref, seed), inner.init_receiver(ref)

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        check_tree(tree, ref)
        old_u, old_v, inner_state, memory = state
        u, v = {}, {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, x in tree.items():
                u[name] = np.add(np.float32(momentum) * old_u[name], x, out=np.empty_like(x))
                v[name] = np.add(old_v[name], u[name], out=np.empty_like(x))
        wire, inner_state = inner.encode(v, inner_state, ref)
        sent, memory = base.receive(inner, wire, ref, memory)
        for name, q in sent.items():
            np.subtract(v[name], q, out=v[name])
            if masking:
                u[name][q != 0] = 0
            if not (is_finite(u[name]) and is_finite(v[name])):
                raise CodecError(f"{name!r}: momentum is beyond float32; lower the learning rate")
        return wire, (u, v, inner_state, memory)

    return replace(inner, init=init, encode=encode, remembers=True)
