"""Frames of version 2, which stopped runs and compressed files of earlier versions hold.

They have the sections of today's, in another header. Little-endian::

    offset  bytes  field
         0      4  magic "TWIR"
         4      1  version: 2
         5      3  reserved, zero
         8      8  fingerprint of the codec's spec
        16      8  manifest
        24      4  length of the body
        28      4  CRC-32 of the 28 bytes before it and of the body
        32         body: for each section its length (4 bytes) and its bytes

No peer sends them: a node of an earlier version is told to install this one.
"""

from __future__ import annotations

import struct
import zlib

from fl_app.codecs.base import WireError
from fl_app.wire.frame import former_version, framed

VERSION = 2
_HEAD = struct.Struct("<4sB3s8s8sI")
_U32 = struct.Struct("<I")
_START = _HEAD.size + _U32.size


def today(frame: bytes | memoryview) -> bytes | memoryview:
    """Return a frame as `pack` writes it: one of version 2 in today's header, another as it is.

    Raises
    ------
    WireError
        If it is of version 2, and damaged.
    """
    if former_version(frame) != VERSION:
        return frame
    view = memoryview(frame)
    if len(view) < _START:
        raise WireError(f"truncated: {len(view)} bytes")
    _, _, _, codec, manifest, length = _HEAD.unpack_from(view)
    (crc,) = _U32.unpack_from(view, _HEAD.size)
    body = view[_START:]
    if len(body) != length or zlib.crc32(body, zlib.crc32(view[: _HEAD.size])) != crc:
        raise WireError("damaged or truncated: the CRC-32 does not match")
    sections: list[bytes] = []
    while body:
        (size,) = _U32.unpack_from(body) if len(body) >= _U32.size else (len(body),)
        body = body[_U32.size :]
        if size > len(body):
            raise WireError(f"section {len(sections)} claims {size} bytes, {len(body)} are left")
        sections.append(bytes(body[:size]))
        body = body[size:]
    return framed(sections, codec, manifest)
