"""Three levels: a group's scale, its negative, and zero for what is small."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec, Stream, Wire, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import groups
from fl_app.codecs.parts.groups import Scope
from fl_app.codecs.registry import register
from fl_app.codecs.streams.bits import pack
from fl_app.tree import Tree, scalars, split


@register("ternary")
def ternary(scope: Scope = "tensor") -> Codec:
    """Send ``s sign(x)`` where ``|x| > 0.7 mean |x|``, else 0; s is the mean of those ``|x|``.

    The threshold approximates the one of least L2 error; given a threshold, this s is optimal:
    ``|decoded - x|_2**2 = |x|_2**2 - k s**2`` with k values that are not zero.

    Sections: s of each group, little-endian float32; one symbol of 2 bits per value of all tensors
    in a row: 0 for 0, 1 for -s, 2 for s.

    Rate: ``ceil(n / 4) + 4 groups`` bytes, 2 bits a value; behind an entropy coder at most log2(3),
    1.56 bits on Gaussian values.
    Error: ``| |x| - s |`` or ``|x|`` per value, less than the largest ``|x|``; relative L2 0.44
    on Gaussian values. Zeros are exact, values of one magnitude too.

    Parameters
    ----------
    scope : str
        What shares s, the whole "tree" or each "tensor".

    Raises
    ------
    ValueError
        Another scope.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong lengths, a scale that is negative, NaN or Inf, a symbol 3, padding that is
        not zero.

    References
    ----------
    Li and Liu, Ternary weight networks, arXiv 1605.04711, equations 4 to 6.
    """
    groups.check_scope("ternary", scope)

    def streams(ref: Tree) -> tuple[Stream, Stream]:
        return Stream(8, 4 * len(groups.sizes(ref, scope))), groups.symbol_stream(
            ref, 2, levels=True
        )

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        x = groups.flatten(tree, ref)
        symbols = np.zeros(x.size, np.uint8)
        scales = []
        for at in groups.slices(ref, scope):
            size = np.abs(x[at])
            threshold = 0.7 * np.mean(size, dtype=np.float64)
            large = size > threshold
            k = np.count_nonzero(large)
            size *= large
            scales.append(np.sum(size, dtype=np.float64) / k if k else 0.0)
            symbols[at] = large.view(np.uint8) << (x[at] > 0).view(np.uint8)
        return Wire((np.array(scales, "<f4").tobytes(), pack(symbols, 2))), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        scales = groups.read_scales(wire.sections[0])
        n = scalars(ref)
        symbols = groups.read_symbols(wire.sections[1], n, 2, most=2)
        out = np.empty(n, np.float32)
        for at, s in zip(groups.slices(ref, scope), scales, strict=True):
            groups.look_up(np.array([0, -s, s], np.float32), symbols[at], out[at])
        return split(out, ref)

    return Codec(stateless, encode, decode, 2, streams)
