"""Heads: what every message of a turn says, in a few bytes in front of its frame.

Numbers little-endian::

    offset  bytes  field
         0      1  version, that of the frame
         1      1  which fields follow: bit k is the k-th of the list below
         2         the fields that follow, in the order of the list

A count is a varint, a time a float32 in seconds, and a loss a float64. What only some methods say
stands in records of its own. Whether a value can be is for who reads it, see
``fl_app.wire.readers``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_app.codecs import WireError
from fl_app.codecs.streams.bits import read_varint, varint
from fl_app.wire.frame import VERSION
from fl_app.wire.messages import (
    ACCEPTED,
    EXAMPLES,
    EXCHANGE,
    FORM,
    LENGTH,
    LOSS,
    SECONDS,
    SINCE,
)
from fl_app.wire.messages import PARTITION as HELD
from fl_app.wire.readers import PARTITION, ROUND

COUNT, SINGLE, DOUBLE = "count", "<f", "<d"
_VARINT = 10  # bytes of the longest count
_MOST = 2**63 - 1  # of a count, in Flower's records too


@dataclass(frozen=True, eq=False)
class Head:
    """The fields of a head by name, in order, and how each is written."""

    fields: Mapping[str, str]

    def write(self, values: Mapping[str, Any]) -> bytes:
        """Return the head that says ``values``.

        Raises
        ------
        ValueError
            If a value is none that its field can hold, or belongs to no field.
        """
        if unknown := {*values} - {*self.fields}:
            raise ValueError(f"a head has no field for {sorted(unknown)}: {[*self.fields]}")
        present, parts = 0, []
        for bit, (name, kind) in enumerate(self.fields.items()):
            if name not in values:
                continue
            value, present = values[name], present | 1 << bit
            if kind != COUNT:
                parts.append(struct.pack(kind, value))
                continue
            if type(value) is not int or not 0 <= value <= _MOST:
                raise ValueError(f"{name}={value!r} should be a whole number in 0..{_MOST}")
            parts.append(varint(value))
        return bytes([VERSION, present]) + b"".join(parts)

    def read(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        """Return what a head says, and the bytes after it.

        Raises
        ------
        WireError
            If it is of another version, has fields that this one does not know, or is truncated.
        """
        if len(data) < 2:
            raise WireError(f"truncated: {len(data)} bytes, a head has at least 2")
        if data[0] != VERSION:
            raise WireError(
                f"a message of version {data[0]}, this side reads {VERSION}: install the same "
                "Thinwire version on both sides",
                kind="other_version",
                version=data[0],
                reads=VERSION,
            )
        present, at, said = data[1], 2, {}
        if present >> len(self.fields):
            raise WireError(f"the head has fields {present:#x}, and there are {len(self.fields)}")
        for bit, (name, kind) in enumerate(self.fields.items()):
            if not present >> bit & 1:
                continue
            size = _VARINT if kind == COUNT else struct.calcsize(kind)
            part = data[at : at + size]
            if kind == COUNT:
                try:
                    said[name], rest = read_varint(part, _MOST)
                except WireError:
                    raise WireError(f"{name}: no count of 0..{_MOST} in its only form") from None
                at += len(part) - len(rest)
                continue
            if len(part) < size:
                raise WireError(f"truncated: the head ends before {name}")
            (said[name],) = struct.unpack(kind, part)
            at += size
        return said, data[at:]


QUESTION = Head(dict.fromkeys((ROUND, PARTITION, ACCEPTED, FORM, EXCHANGE, LENGTH), COUNT))
REPLY = Head(
    {EXAMPLES: COUNT, LOSS: DOUBLE, **dict.fromkeys(SECONDS, SINGLE)}
    | dict.fromkeys((SINCE, HELD, LENGTH), COUNT)
)
