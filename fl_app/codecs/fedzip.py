"""FedZip: the largest values as three centroids, in the cheapest of three encodings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections, is_finite
from fl_app.codecs.parts import groups, sparse
from fl_app.codecs.parts.centroids import descend, nearest
from fl_app.codecs.parts.groups import Scope
from fl_app.codecs.registry import register
from fl_app.codecs.streams import clusters
from fl_app.codecs.streams.bits import BitReader
from fl_app.tree import Tree, scalars, split

ROUNDS = 4


@register("fedzip")
def fedzip(fraction: float = 0.2, pinned: bool = True, scope: Scope = "tensor") -> Codec:
    """Keep the k values of largest magnitude, and send three centroids of what is then there.

    With z = ``fraction`` and n_j values in group j, ``k = max(1, round(z n_j))`` values stay and
    the others become 0; among equal magnitudes the lowest index stays. Biases, which are tensors of
    fewer than two dimensions, are not pruned and do not count in n_j. Then follow four rounds of
    Lloyd's algorithm on all values, from the least, the middle of the range and the largest. With
    ``pinned`` the middle centroid is 0 and stays there, so that what was pruned is decoded to 0.
    Otherwise, as published, it is the mean of its cell, and a small constant takes their place. A
    cell without values keeps its centroid.

    Sections: of each group the centroids in ascending order, little-endian float32, three, or the
    two beside 0; of each group the numbers of its values' centroids, see `streams.clusters`, one
    after the other, and at the end zero bits up to a byte. The second one varies in length.

    Rate: with N_a >= N_b >= N_c values at the three centroids, ``4 +`` the least of
    ``N_a + 2 (N_b + N_c)``, ``(N_b + N_c) ceil(log2 n_j)`` and the Rice coded gaps in bits, the two
    latter with the two counts; and 12 bytes, or 8 if ``pinned``. Error: at most the range of the
    group's values and 0. Groups of at most three different values that are not pruned are exact;
    if ``pinned``, 0 is one of the three, and encoding what was decoded changes no value.

    Parameters
    ----------
    fraction : float
        z, the share of the values to keep, in (0, 1]. The published code keeps 0.2.
    pinned : bool
        Whether one centroid is 0.
    scope : str
        What shares centroids and k, each "tensor" (as published) or the whole "tree".

    Raises
    ------
    ValueError
        Other arguments.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong lengths, a centroid that is NaN or Inf, bits that are none of the three
        encodings, padding that is not zero.

    References
    ----------
    Malekijoo et al., FedZip, arXiv 2102.01593, and its code (github.com/malekijoo/FedZip). Pinning,
    and a code for gaps that can be decoded, are ours.
    """
    sparse.check_fraction("fedzip", fraction)
    groups.check_scope("fedzip", scope)
    if not isinstance(pinned, bool):
        raise ValueError(f"fedzip: pinned must be true or false, got {pinned!r}")
    sent = 2 if pinned else 3

    def streams(ref: Tree) -> tuple[Stream, Stream]:
        sizes = groups.sizes(ref, scope).tolist()
        bits = sum(map(clusters.most, sizes))
        return Stream(8, 4 * sent * len(sizes)), Stream(8, -(-bits // 8), variable=True)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        x = groups.flatten(tree, ref)
        is_bias = np.repeat([r.ndim < 2 for r in ref.values()], [r.size for r in ref.values()])
        books, bits = [], [np.empty(0, np.uint8)]
        for at in groups.slices(ref, scope):
            pruned = prune(x[at], is_bias[at], fraction)
            book = centroids(pruned, pinned)
            bits.append(clusters.encode(nearest(pruned, book)))
            books.append((_without_zero(book) if pinned else book).astype("<f4").tobytes())
        return Wire((b"".join(books), np.packbits(np.concatenate(bits)).tobytes())), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        books = np.frombuffer(wire.sections[0], "<f4").astype(np.float32)
        if not is_finite(books):
            raise WireError("fedzip: a centroid is NaN or Inf")
        books = books.reshape(-1, sent)
        if pinned:
            books = np.sort(np.pad(books, ((0, 0), (0, 1))), axis=1)
        reader = BitReader(wire.sections[1])
        out = np.empty(scalars(ref), np.float32)
        for at, book in zip(groups.slices(ref, scope), books, strict=True):
            groups.look_up(book, clusters.decode(reader, at.stop - at.start), out[at])
        if reader.rest():
            raise WireError("fedzip: bytes after the last value")
        return split(out, ref)

    return Codec(stateless, encode, decode, 2, streams)


def prune(
    x: NDArray[np.float32], is_bias: NDArray[np.bool_], fraction: float
) -> NDArray[np.float32]:
    """Return x with zeros in place of all but the largest values and biases."""
    mask = is_bias.copy()
    weights = x[~is_bias]
    # Without their sign, floats order like their bits.
    magnitudes = weights.view(np.uint32) & np.uint32(0x7FFFFFFF)
    mask[~is_bias] = sparse.largest(magnitudes, sparse.count(fraction, weights.size))
    return np.where(mask, x, np.float32(0))


def centroids(x: NDArray[np.float32], pinned: bool, rounds: int = ROUNDS) -> NDArray[np.float32]:
    """Return the three centroids of one value or more, ascending; with ``pinned`` one is 0."""
    values = np.sort(x).astype(np.float64)
    distinct = np.unique(np.append(values, 0.0) if pinned else values)
    if distinct.size <= clusters.CLUSTERS:
        # With a zero more the one that is pinned stays a third.
        return np.pad(distinct, (0, clusters.CLUSTERS - distinct.size), mode="edge").astype(
            np.float32
        )
    least, largest = distinct[0], distinct[-1]
    middle = 0.0 if pinned else least / 2 + largest / 2
    begin = np.array([least, middle, largest])
    return descend(values, begin, rounds, 1 if pinned else None).astype(np.float32)


def _without_zero(book: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.delete(book, np.flatnonzero(book == 0)[0])
