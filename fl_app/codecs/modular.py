"""Integers modulo a power of two, whose sum over clients decodes to the clients' mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import groups
from fl_app.codecs.parts.uniform_step import LARGEST
from fl_app.codecs.registry import register
from fl_app.codecs.streams import words
from fl_app.codecs.streams.words import Words
from fl_app.tree import Tree, scalars, split


@register("modular")
def modular(clip: float, bits: int, clients: int, max_weight: int = 1) -> Codec:
    """Send values clipped to [-clip, clip] as ``q = round(Q x / clip)``, ``Q = 2**(bits-1) - 1``.

    A message holds the q of all values and then the weight 1, as words modulo 2**k. With
    ``k = ceil(log2(2 N Q + 1))``, N = clients * max_weight, the words of clients with weights
    w_i up to ``max_weight`` can be added modulo 2**k, and decode takes the sum:

    .. math:: x = \\frac{clip}{Q} \\frac{\\sum_i w_i q_i \\bmod 2^k}{\\sum_i w_i \\bmod 2^k},

    where the sum of w_i q_i is the representative in [-2**(k-1), 2**(k-1)). The messages may carry
    masks that cancel in the sum: that is secure aggregation, see ``fl_app.secure_aggregation``.

    Section: n + 1 words of k bits for a tree of n values. For 4 clients and 16 bits k is 18.

    Rate: k bits a value. Error: half a step, ``clip / (2 Q)``, for values within the range; values
    beyond it become its ends.

    Parameters
    ----------
    clip : float
        The largest magnitude that is sent.
    bits : int
        2 to 24, of a value within one client's message.
    clients : int
        The largest number of clients that are added.
    max_weight : int
        The largest weight of a client.

    Raises
    ------
    ValueError
        An argument out of range, or k above 56.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong length, a weight of 0 or above N, a sum beyond its weight times Q.

    References
    ----------
    The quantization of Bonawitz et al., Practical Secure Aggregation, CCS 2017, section 7; with
    Bell et al., CCS 2020.
    """
    if not isinstance(clip, (int, float)) or isinstance(clip, bool) or not 0 < clip <= LARGEST:
        raise ValueError(f"modular: clip must be a float32 greater than 0, got {clip!r}")
    for name, value, least, most in (
        ("bits", bits, 2, 24), ("clients", clients, 1, 2**31), ("max_weight", max_weight, 1, 2**31)
    ):  # fmt: skip
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(
                f"modular: {name} must be an integer in {least}..{most}, got {value!r}"
            )
    ring = Ring.of(bits, clients, max_weight)
    if ring.bits > words.MOST:
        raise ValueError(
            f"modular: {ring.bits} bits a value, at most {words.MOST} are possible: lower bits,"
            " clients or max_weight"
        )
    step = clip / ring.largest

    def streams(ref: Tree) -> tuple[Stream, ...]:
        return (Stream(8, words.nbytes(ring.bits, ring.count(ref))),)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        x = groups.flatten(tree, ref).astype(np.float64)
        levels = np.rint(np.clip(x, -clip, clip) / step)
        return Wire((ring.pack(levels.astype(np.int64), weight=1),)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        (section,), count = wire.sections, ring.count(ref)
        weight = ring.weight(section, count)
        out = np.empty(count, np.float32)
        for i, part in enumerate(words.chunks(section, ring.bits, count)):
            levels = ring.levels(part)
            at = slice(i * words.CHUNK, i * words.CHUNK + levels.size)
            if at.stop == count:  # the weight is no value
                levels[-1] = 0
            if max(levels.max(), -levels.min()) > weight * ring.largest:
                raise WireError(f"modular: a sum beyond {weight} times {ring.largest}")
            out[at] = levels * (step / weight)
        return split(out[:-1], ref)

    return Codec(stateless, encode, decode, 1, streams)


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2**bits, with room for a sum.

    Attributes
    ----------
    largest : int
        Q, the largest magnitude of one client's value.
    total : int
        N, the largest sum of weights.
    max_weight : int
        The largest weight of a client.
    """

    largest: int
    total: int
    max_weight: int

    @classmethod
    def of(cls, bits: int, clients: int, max_weight: int) -> Ring:
        """Return the ring of a `modular` codec with these arguments."""
        return cls(2 ** (bits - 1) - 1, clients * max_weight, max_weight)

    @property
    def bits(self) -> int:
        """Return k: -N Q ... N Q are different modulo 2**k."""
        return (2 * self.total * self.largest).bit_length()

    @property
    def mask(self) -> Any:
        """Return 2**k - 1 in the type of the words."""
        return words.dtype(self.bits)(2**self.bits - 1)

    def count(self, ref: Tree) -> int:
        """Return the words of a message: the values of ``ref``, and the weight."""
        return 1 + scalars(ref)

    def pack(self, levels: NDArray[np.int64], weight: int) -> bytes:
        """Return the section of a client whose values are ``levels``."""
        kind = words.dtype(self.bits)
        return words.pack(np.append(levels, weight).astype(kind) & self.mask, self.bits)

    def weighted(self, message: Words, weight: int) -> Words:
        """Return a message of weight 1 as one of ``weight``.

        Raises
        ------
        ValueError
            The weight is not in 1..max_weight.
        """
        if not 1 <= weight <= self.max_weight:
            raise ValueError(f"a weight of {weight}, it should be in 1..{self.max_weight}")
        return message * message.dtype.type(weight) & self.mask

    def weight(self, section: bytes, count: int) -> int:
        """Return the last of the ``count`` words of a section.

        Raises
        ------
        WireError
            It is no sum of weights, as when masks are left in it.
        """
        tail = int.from_bytes(section[(count - 1) * self.bits // 8 :])
        weight = tail >> -count * self.bits % 8 & int(self.mask)
        if not 1 <= weight <= self.total:
            raise WireError(f"modular: a weight of {weight}, it should be in 1..{self.total}")
        return weight

    def levels(self, message: Words) -> NDArray[np.int64]:
        """Return the representatives of words in [-2**(k-1), 2**(k-1))."""
        unused = 64 - self.bits  # shifted out and in again, to extend the sign
        return (message.astype(np.uint64) << np.uint64(unused)).view(np.int64) >> unused


def ring(spec: Mapping[str, Any]) -> Ring:
    """Return the ring of a codec that is ``modular``, or a chain of ``delta`` and it.

    Raises
    ------
    ValueError
        It is another codec, so that sums of its messages mean nothing.
    """
    links = spec.get("links", [spec])
    last = links[-1]
    if last["id"] != "modular" or any(link["id"] != "delta" for link in links[:-1]):
        raise ValueError(
            f"codec.up={dict(spec)} has no sum: use codec=modular, or a chain of delta and modular"
        )
    return Ring.of(last["bits"], last["clients"], last["max_weight"])
