"""The frame: a header of 32 bytes, then the sections of a codec, each with its length.

All numbers little-endian::

    offset  bytes  field
         0      4  magic "TWIR"
         4      1  version of the frame and of the codecs' byte formats
         5      3  reserved, zero
         8      8  fingerprint of the codec's spec
        16      8  manifest: fingerprint of theta0 (names, shapes, values)
        24      4  length of the body
        28      4  CRC-32 of the 28 bytes before it and of the body
        32         body: for each section its length (4 bytes) and its bytes

Nothing in a frame is trusted: a length is compared with the bytes that are there before anything
is cut from them. The CRC finds damage, not an attacker; transport security is Flower's.
"""

from __future__ import annotations

import struct
import zlib

from fl_app.codecs.base import Codec, CodecError, Wire, WireError
from fl_app.tree import manifest

__all__ = ["HEADER_BYTES", "VERSION", "WireError", "manifest", "pack", "unpack"]

MAGIC = b"TWIR"
VERSION = 2
_HEAD = struct.Struct("<4sB3s8s8sI")
_U32 = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _U32.size
_RESERVED = bytes(3)
_LIMIT = 2**32 - 1


def pack(wire: Wire, codec: Codec, manifest: bytes) -> bytes:
    """Frame what a codec wrote: ``wire.nbytes + 32 + 4 * codec.sections`` bytes.

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
    length = wire.nbytes + _U32.size * len(wire.sections)
    if length > _LIMIT:
        raise CodecError(f"{length} bytes do not fit one frame of at most {_LIMIT}")
    parts = [_HEAD.pack(MAGIC, VERSION, _RESERVED, codec.fingerprint, manifest, length), b""]
    for section in wire.sections:
        parts += [_U32.pack(len(section)), section]
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
        WireError: with the first reason of: not a frame, another version, truncated or too long,
            damaged, another codec, another theta0, sections that do not fill the body.
    """
    view = memoryview(frame).cast("B")
    if bytes(view[:4]) != MAGIC[: len(view)] or not len(view):
        raise WireError("not a Thinwire frame: it does not start with 'TWIR'")
    if len(view) < HEADER_BYTES:
        raise WireError(f"truncated: {len(view)} bytes, a header alone has {HEADER_BYTES}")
    _, version, reserved, sent_codec, sent_manifest, length = _HEAD.unpack_from(view)
    if version != VERSION:
        raise WireError(
            f"frame version {version}, this side reads {VERSION}: install the same Thinwire"
            " version on both sides",
            kind="other_version",
            version=version,
            reads=VERSION,
        )
    body = view[HEADER_BYTES:]
    if len(body) != length:
        what = "truncated" if len(body) < length else "trailing bytes"
        raise WireError(f"{what}: the header announces {length} bytes, {len(body)} follow")
    (crc,) = _U32.unpack_from(view, _HEAD.size)
    if zlib.crc32(body, zlib.crc32(view[: _HEAD.size])) != crc:
        raise WireError("damaged: the CRC-32 does not match, bytes changed on the way")
    if reserved != _RESERVED:
        raise WireError("reserved bytes are not zero: the sender is newer than this side")
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


def _sections(body: memoryview, count: int) -> tuple[bytes, ...]:
    sections, at = [], 0
    for i in range(count):
        start = at + _U32.size
        if start > len(body):
            raise WireError(f"the body ends before section {i} of {count}")
        (size,) = _U32.unpack_from(body, at)
        at = start + size
        if at > len(body):
            raise WireError(f"section {i} claims {size} bytes, {len(body) - start} are left")
        sections.append(bytes(body[start:at]))
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes after the last section")
    return tuple(sections)
