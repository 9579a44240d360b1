"""A lossless stage around any codec, an entropy coder for each of its sections."""

from __future__ import annotations

from dataclasses import replace

from fl_app.codecs import base
from fl_app.codecs.base import Codec, State, Stream, Wire, WireError
from fl_app.codecs.checks import check_sections
from fl_app.codecs.registry import register
from fl_app.codecs.streams import mixing, smallest
from fl_app.codecs.streams.bits import pack, read_varint, unpack, varint
from fl_app.codecs.streams.smallest import INTERLEAVED, RAW
from fl_app.tree import Tree

MIXED, BESIDE = INTERLEAVED + 1, INTERLEAVED + 2
"""Tags of the streams of `mixing`: without the values beside one, and with them."""
_CONTEXT = (bytes((MIXED,)), bytes((BESIDE,)))
_FEW = 1 << 14  # values; among more, what the lines before cost is soon learnt


@register("entropy", later=["context"])
def entropy(inner: Codec, context: bool = False) -> Codec:
    """Code each section of ``inner`` again, by the lossless coder that needs the fewest bytes.

    A section is a stream of symbols of 1, 2, 4 or 8 bits, see `Stream`. It is sent raw, as one
    constant, by rANS under the frequencies of its symbols, as Golomb-Rice coded gaps, in 2 or 4
    planes (bytes of floats), or by zstd, whichever is shortest; the first of them at a tie.
    The rest that a link leaves, and what both ends remember, are inner's.

    With ``context``, levels (of `uniform` and `ternary`) are also tried with adaptive probabilities
    that depend on tensor, row, column, reference and the lines before, see `streams.mixing`: on
    updates of LoRA 4 to 7 % fewer bytes, for about 0.2 us a value (docs/codecs.md).

    Sections: those of inner, each as a tag byte and a body (see `streams.smallest`; the tags 7 and
    8 are those of `streams.mixing`, without and with the lines before). Where inner's length varies
    and the body is not raw, the length stands between them as a varint. An empty section stays
    empty.

    Rate: at most one byte more per section than inner. For n symbols of frequencies p_s about
    ``sum_s -p_s log2 p_s`` bits a symbol and 10 bits per different symbol.
    Error: inner's; the sections that inner decodes are bit for bit those that it encoded.

    Parameters
    ----------
    inner : Codec
        Any codec, also a link that leaves a rest.
    context : bool
        True for the adaptive coder of levels, too.

    Raises
    ------
    ValueError
        inner is not a codec, or context neither true nor false.
    CodecError
        In encode: inner's.
    WireError
        In decode: sections that are not such streams of the lengths that the reference asks for,
        before any memory beyond theirs is taken; and inner's.

    References
    ----------
    Duda, arXiv 1311.2540 (rANS); Rice, JPL 79-22 (gaps); RFC 8878 (zstd).
    """
    if not isinstance(inner, Codec):
        raise ValueError(f"entropy: inner must be a codec, got {inner!r}")
    if not isinstance(context, bool):
        raise ValueError(f"entropy: context must be true or false, got {context!r}")

    def streams(ref: Tree) -> tuple[Stream, ...]:
        return tuple(Stream(8, s.nbytes + 1, variable=True) for s in inner.streams(ref))

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        wire, state = inner.encode(tree, state, ref)
        pairs = zip(wire.sections, inner.streams(ref), strict=True)
        return replace(wire, sections=tuple(_encode(*pair, context) for pair in pairs)), state

    def recover(wire: Wire, ref: Tree) -> Wire:
        check_sections(wire, streams(ref))
        pairs = zip(wire.sections, inner.streams(ref), strict=True)
        return replace(wire, sections=tuple(_decode(*pair, context) for pair in pairs))

    def decode(wire: Wire, ref: Tree) -> Tree:
        return inner.decode(recover(wire, ref), ref)

    def receive(wire: Wire, ref: Tree, memory: State) -> tuple[Tree, State]:
        return base.receive(inner, recover(wire, ref), ref, memory)

    return replace(
        inner,
        encode=encode,
        decode=decode,
        streams=streams,
        receive=receive if inner.receive else None,
    )


def _encode(section: bytes, stream: Stream, context: bool) -> bytes:
    symbols = unpack(section, stream.bits)
    coded = smallest.encode(symbols, stream.bits, section)
    if context and stream.tensors:
        where = (stream.tensors, 2**stream.bits)
        for tag in (MIXED, BESIDE) if stream.count <= _FEW else (BESIDE,):
            mixed = mixing.encode(symbols[: stream.count], *where, beside=tag == BESIDE)
            if mixed is not None and 1 + len(mixed) < len(coded):
                coded = bytes((tag,)) + mixed
        if coded[:1] in _CONTEXT:
            return coded
    if not stream.variable or not section or coded[0] == RAW:
        return coded
    coded = coded[:1] + varint(len(section)) + coded[1:]
    return coded if len(coded) <= len(section) else bytes((RAW,)) + section


def _decode(coded: bytes, stream: Stream, context: bool) -> bytes:
    if context and stream.tensors and coded[:1] in _CONTEXT:
        where = (stream.tensors, 2**stream.bits)
        return pack(mixing.decode(coded[1:], *where, beside=coded[0] == BESIDE), stream.bits)
    nbytes = stream.nbytes
    if stream.variable:
        nbytes = max(len(coded) - 1, 0)
        if coded and coded[0] != RAW:
            nbytes, body = read_varint(coded[1:], stream.nbytes)
            coded = coded[:1] + body
            if not nbytes:
                raise WireError("a section of length 0 that has bytes")
    return pack(smallest.decode(coded, 8 * nbytes // stream.bits, stream.bits), stream.bits)
