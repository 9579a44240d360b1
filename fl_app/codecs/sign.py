"""Signs: one bit a value, and the mean magnitude of each group."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec, Stream, Wire, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import groups
from fl_app.codecs.registry import register
from fl_app.codecs.streams.bits import pack
from fl_app.tree import Tree, split

_SIGN = np.array([1, -1], np.float32)


@register("sign", later=["scale"])
def sign(scope: str | int = "tensor", scale: str = "mean") -> Codec:
    """Send each value as ``s sign(x)`` with ``s = mean |x|`` of its group; the sign of 0 is +.

    This s is the one of least L2 error, ``|decoded - x|_2**2 = |x|_2**2 - n s**2``; that of 1-bit
    Adam, ``|x|_2 / sqrt(n)``, keeps the norm instead. Wrap it in `error_feedback`, as both papers
    do.

    With ``scale="one"`` s is 1 and is not sent: for values that are signs, such as votes.

    Sections: s of each group, little-endian float32; one bit per value of all tensors in a row, 1
    where x < 0.

    Rate: ``ceil(n / 8) + 4 groups`` bytes, 1 bit a value; ``ceil(n / 8)`` with ``scale="one"``.
    Error: ``| |x| - s |`` per value; relative L2 0.60 on Gaussian values. Values of one magnitude
    are exact, a group of zeros too; other zeros are not.

    Parameters
    ----------
    scope : str or int
        What shares s: the whole "tree", each "tensor", or this number of values of a tensor in a
        row.
    scale : str
        "mean" for ``s = mean |x|``, "norm" for that of 1-bit Adam, "one" for 1.

    Raises
    ------
    ValueError
        Another scope or scale.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong lengths, a scale that is negative, NaN or Inf, padding that is not zero.

    References
    ----------
    Karimireddy et al., Error feedback fixes SignSGD, arXiv 1901.09847; Tang et al., 1-bit Adam,
    arXiv 2102.02888.
    """
    if type(scope) is not int:
        groups.check_scope("sign", scope)
    elif not 1 <= scope < 2**31:
        raise ValueError(f"sign: a group must have 1 to 2^31 - 1 values, got {scope}")
    if scale not in ("mean", "norm", "one"):
        raise ValueError(f"sign: scale must be 'mean', 'norm' or 'one', got {scale!r}")

    def streams(ref: Tree) -> tuple[Stream, Stream]:
        count = 0 if scale == "one" else len(groups.sizes(ref, scope))
        return Stream(8, 4 * count), groups.symbol_stream(ref, 1)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        x = groups.flatten(tree, ref)
        sizes = groups.sizes(ref, scope)
        scales = np.empty(0)
        if sizes.size and scale != "one":
            starts = np.cumsum(sizes) - sizes
            lengths = np.abs(x) if scale == "mean" else np.square(x, dtype=np.float64)
            scales = np.add.reduceat(lengths, starts, dtype=np.float64) / sizes
            if scale == "norm":
                scales = np.sqrt(scales)
        return Wire((scales.astype("<f4").tobytes(), pack((x < 0).view(np.uint8), 1))), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        sizes = groups.sizes(ref, scope)
        scales = groups.read_scales(wire.sections[0])
        if scale == "one":
            scales = np.ones(sizes.size, np.float32)
        negative = groups.read_symbols(wire.sections[1], int(sizes.sum()), 1, 1)
        out = np.repeat(scales, sizes)
        for i in range(0, out.size, groups.CHUNK):
            out[i : i + groups.CHUNK] *= _SIGN[negative[i : i + groups.CHUNK]]
        return split(out, ref)

    return Codec(stateless, encode, decode, 2, streams)
