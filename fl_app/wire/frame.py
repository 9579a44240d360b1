"""The frame: a header of 22 bytes, then the sections of a codec.

Little-endian::

    offset  bytes  field
         0      1  magic "T"
         1      1  version of the frame and of the codecs' byte formats
         2      8  fingerprint of the codec's spec
        10      8  manifest: fingerprint of theta0 (names, shapes, values)
        18      4  CRC-32 of the 18 bytes before it and of the body
        22         body: the sections, each but the last after its length (varint, 1 to 5 bytes)

The codec says how many sections there are, and what carries a frame says where it ends: the last
section is the rest. Nothing in a frame is trusted: a length is compared with the bytes that are
there before anything is cut from them. The CRC finds damage and truncation, not an attacker;
transport security is Flower's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from fl_app.codecs.base import Codec, CodecError, Wire, WireError
from fl_app.codecs.streams.bits import read_varint, varint
from fl_app.tree import manifest

__all__ = ["HEADER_BYTES", "VERSION", "WireError", "manifest", "pack", "unpack"]

MAGIC = b"T"
VERSION = 3
_HEAD = struct.Struct("<sB8s8s")
_U32 = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _U32.size
_LIMIT = 2**32 - 1
_VARINT = 5  # bytes of the longest length
_FORMER = b"TWIR"  # before the version, of frames of version 1 and 2


def pack(wire: Wire, codec: Codec, manifest: bytes) -> bytes:
    """Frame what a codec wrote: in ``wire.nbytes + 22`` bytes, and 1 to 5 for each further section.

    Args:
        wire: the codec's output, with nothing left to encode.
        codec: the codec that wrote it.
        manifest: 8 bytes, `manifest` of theta0.

    Raises:
        CodecError: a rest is left, the sections are not the codec's, or 4 GiB are exceeded.
        ValueError: the manifest does not have 8 bytes.
    """
    if len(manifest) != 8:
        raise ValueError(f"the manifest has {len(manifest)} bytes, not 8")
    if wire.rest or not codec.terminal:
        raise CodecError(f"{codec.spec} leaves values to encode; end the chain with fp32 or nf4")
    if len(wire.sections) != codec.sections:
        raise CodecError(f"{len(wire.sections)} sections, the codec writes {codec.sections}")
    return framed(wire.sections, codec.fingerprint, manifest)


def framed(sections: Sequence[bytes], codec: bytes, manifest: bytes) -> bytes:
    """Frame sections, by the fingerprints of their codec and of theta0; see `pack`."""
    if (total := sum(map(len, sections))) > _LIMIT:
        raise CodecError(f"{total} bytes do not fit one frame of at most {_LIMIT}")
    parts = [_HEAD.pack(MAGIC, VERSION, codec, manifest), b""]
    for section in sections[:-1]:
        parts += [varint(len(section)), section]
    parts += sections[-1:]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    parts[1] = _U32.pack(crc)
    return b"".join(parts)


def unpack(frame: bytes | bytearray | memoryview, codec: Codec, manifest: bytes) -> Wire:
    """Check a frame and cut it into the sections that ``codec.decode`` takes.

    Args:
        frame: what `pack` made, from the other side.
        codec: the codec that this side expects.
        manifest: 8 bytes, `manifest` of this side's theta0.

    Raises:
        WireError: with the first reason of: not a frame, another version, truncated, damaged,
            another codec, another theta0, sections that do not fill the body.
    """
    view = memoryview(frame).cast("B")
    if bytes(view[:1]) != MAGIC:
        raise WireError("not a Thinwire frame: it does not start with 'T'")
    if len(view) < HEADER_BYTES:
        raise WireError(f"truncated: {len(view)} bytes, a header alone has {HEADER_BYTES}")
    version = former_version(view) or view[1]
    if version != VERSION:
        raise WireError(
            f"frame version {version}, this side reads {VERSION}: install the same Thinwire"
            " version on both sides",
            kind="other_version",
            version=version,
            reads=VERSION,
        )
    _, _, sent_codec, sent_manifest = _HEAD.unpack_from(view)
    body = view[HEADER_BYTES:]
    (crc,) = _U32.unpack_from(view, _HEAD.size)
    if zlib.crc32(body, zlib.crc32(view[: _HEAD.size])) != crc:
        raise WireError("damaged or truncated: the CRC-32 does not match")
    if sent_codec != codec.fingerprint:
        raise WireError(
            f"the sender used another codec: check codec= on both sides (here {codec.spec})",
            kind="other_codec",
        )
    if sent_manifest != manifest:
        raise WireError(
            f"theta0 or the trained tensors differ (manifest {sent_manifest.hex()}, here"
            f" {manifest.hex()}): same model weights, adapter, seed and version on both sides?",
            kind="other_model",
        )
    return Wire(_sections(body, codec.sections))


def former_version(frame: bytes | memoryview) -> int | None:
    """Return the version of a frame of version 1 or 2, which had another header; else None."""
    is_former = bytes(frame[: len(_FORMER)]) == _FORMER and len(frame) > len(_FORMER)
    return frame[len(_FORMER)] if is_former else None


def _sections(body: memoryview, count: int) -> tuple[bytes, ...]:
    sections = []
    for i in range(count - 1):
        start = bytes(body[:_VARINT])
        try:
            size, rest = read_varint(start, _LIMIT)
        except WireError as error:
            raise WireError(f"the length of section {i} of {count}: {error}") from None
        body = body[len(start) - len(rest) :]
        if size > len(body):
            raise WireError(f"section {i} claims {size} bytes, {len(body)} are left")
        sections.append(bytes(body[:size]))
        body = body[size:]
    if count:
        sections.append(bytes(body))
    elif body:
        raise WireError(f"{len(body)} bytes, and the codec writes no section")
    return tuple(sections)
