"""A sparse Tree: a bitmap of where its values are not zero, and these values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, State, Stream, Wire, WireError
from fl_app.codecs.checks import check_sections, check_terminal
from fl_app.codecs.parts.groups import CHUNK, flatten, symbol_stream
from fl_app.codecs.registry import register
from fl_app.tree import Tree, scalars, split

VALUES = "values"


@register("nonzero")
def nonzero(inner: Codec) -> Codec:
    """Send what is not zero: for a sender that has chosen what it sends, and how much.

    `top_k` chooses a fixed share itself. Here the k values that are not zero, in their order, are
    one tensor of shape (k,) for ``inner``; k may differ from message to message.

    Sections: one bit per value of the tree, tensors concatenated, 1 where it is not zero; those of
    inner. `entropy` turns the first into the shorter code of the gaps.

    Rate: ``ceil(n / 8)`` bytes, and k values for inner.
    Error: zeros are exact, without their sign; of the others inner's.

    Parameters
    ----------
    inner : Codec
        The codec of the values, one that leaves no rest and remembers nothing.

    Raises
    ------
    ValueError
        inner leaves a rest, or remembers.
    CodecError
        In encode: NaN or Inf; what inner raises.
    WireError
        In decode: wrong lengths, padding bits set; what inner raises.

    References
    ----------
    The message of Lin et al., Deep Gradient Compression, arXiv 1712.01887.
    """
    check_terminal("nonzero", inner)
    if inner.remembers:
        raise ValueError(
            f"nonzero: {inner.spec['id']!r} remembers values by their place, and the places change:"
            " wrap nonzero in it, or use a codec without memory"
        )

    def init(ref: Tree, seed: int = 0) -> State:
        del ref
        return inner.init(_like(0), seed)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        most = inner.streams(_like(scalars(ref)))
        return symbol_stream(ref, 1), *(replace(s, variable=True, tensors=()) for s in most)

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        flat = flatten(tree, ref)
        mask = flat != 0
        values = flat[mask]
        wire, state = inner.encode({VALUES: values}, state, _like(values.size))
        return Wire((np.packbits(mask).tobytes(), *wire.sections)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        bitmap = np.frombuffer(wire.sections[0], np.uint8)
        n = scalars(ref)
        if n % 8 and bitmap[-1] & (0xFF >> n % 8):
            raise WireError("nonzero: the bitmap is padded with something other than zeros")
        k = sum(int(np.count_nonzero(mask)) for _, mask in _masks(bitmap, n))
        values = inner.decode(Wire(wire.sections[1:]), _like(k))[VALUES]
        flat, start = np.zeros(n, np.float32), 0
        for at, mask in _masks(bitmap, n):
            end = start + int(np.count_nonzero(mask))
            flat[at : at + mask.size][mask] = values[start:end]
            start = end
        return split(flat, ref)

    return Codec(init, encode, decode, 1 + inner.sections, streams)


def _like(k: int) -> Tree:
    """Return the reference of k values: a shape, without its memory."""
    return {VALUES: np.broadcast_to(np.float32(0), (k,))}


def _masks(bitmap: NDArray[np.uint8], n: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the n bits in chunks, each with its start."""
    for at in range(0, n, CHUNK):
        some = bitmap[at // 8 : (at + CHUNK) // 8]
        yield at, np.unpackbits(some, count=min(CHUNK, n - at)).view(np.bool_)
