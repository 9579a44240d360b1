"""Random sparsification: some values only, at positions that both sides draw."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec, CodecError, State, Wire
from fl_app.codecs.checks import check_sections, is_finite
from fl_app.codecs.parts import draws, groups, sparse
from fl_app.codecs.registry import register
from fl_app.tree import Tree, scalars, split


@register("random_k")
def random_k(fraction: float = 0.05, rescale: bool = False) -> Codec:
    """Keep k values of each tensor at random, ``k = max(1, round(fraction * n))``; the rest is 0.

    k is rounded half to even, 0 for n = 0. The receiver draws the same positions from the same
    nonce, so no index travels. It is a link: the kept values are its rest, in the order of their
    indices, one tensor of shape (k_j,) per tensor.

    Section: the nonce, little-endian uint32; another one in every message.

    Rate: 4 bytes, and k values for the next link.
    Error: what is kept is exact, times n/k (rounded twice to float32) if ``rescale``. In the mean
    over the draws ``|x - decoded|^2 = (1 - k/n) |x|^2`` per tensor; with ``rescale`` the mean of
    what is decoded is x, at ``|x - decoded|^2 = (n/k - 1) |x|^2``. Every position is as likely as
    any other up to ties of 32-bit draws, n * 2**-32.

    Parameters
    ----------
    fraction : float
        Share of the values to keep, in (0, 1].
    rescale : bool
        True for an unbiased estimate, to be used without `error_feedback`; False for a contraction,
        to be used inside it.

    Raises
    ------
    ValueError
        Another fraction or rescale.
    CodecError
        In encode: NaN or Inf, or a rescaled value beyond float32.
    WireError
        In decode: wrong lengths.

    References
    ----------
    Konečný et al., arXiv 1610.05492, section 2 (random mask); Stich et al., Sparsified SGD with
    Memory, arXiv 1809.07599, definition 2.1 and lemma A.1.
    """
    sparse.check_fraction("random_k", fraction)
    if type(rescale) is not bool:
        raise ValueError(f"random_k: rescale must be true or false, got {rescale!r}")

    def parts(ref: Tree) -> list[sparse.Part]:
        return sparse.parts(sparse.sizes(ref), fraction)

    def narrow(ref: Tree) -> Tree:
        return sparse.kept(parts(ref))

    def drawn(nonce: bytes, ref: Tree) -> sparse.Mask:
        keys = draws.integers(nonce, scalars(ref))
        masks = [sparse.largest(keys[part.values], part.k) for part in parts(ref)]
        return np.concatenate([np.empty(0, np.bool_), *masks])

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        x = groups.flatten(tree, ref)
        nonce, state = draws.next_nonce(state)
        rest = split(x[drawn(nonce, ref)], narrow(ref))
        if rescale:
            for name, kept in rest.items():
                with np.errstate(over="ignore"):
                    kept *= np.float32(ref[name].size / max(kept.size, 1))
                if not is_finite(kept):
                    raise CodecError(f"{name!r}: a value times n/k is beyond float32")
        return Wire((nonce,), rest), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, (draws.NONCE,))
        return sparse.scatter(drawn(wire.sections[0], ref), wire.rest, parts(ref), ref)

    return Codec(
        draws.init,
        encode,
        decode,
        1,
        streams=lambda ref: (draws.NONCE,),
        terminal=False,
        narrow=narrow,
    )
