"""Where a message holds its head and its frame, and what is said where it needs neither.

Each of Flower's records is an object of its own, with a name of 64 characters in two others, so
that head and frame are the bytes of one ConfigRecord, under the shortest keys. A frame of `LARGE`
bytes travels as an Array, which Flower cuts into chunks and stores once however many messages have
it.

The first download need not bring theta0: every node can rebuild it. The message then has no frame
and no head, and its group id, a text that Flower carries beside every message, says theta0's
fingerprint and whom it asks. A set-up answer says in its own which clients the node serves.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fl_app.codecs import WireError
from fl_app.faults.printable import printable
from fl_app.wire.heads import QUESTION, Head
from fl_app.wire.messages import ACCEPTED, ARRAYS, BARE, CONFIG, PARTITIONS
from fl_app.wire.messages import PARTITION as HELD
from fl_app.wire.readers import PARTITION, ROUND
from fl_app.wire.records import pack_record, unpack_record

Content = dict[str, ArrayRecord | ConfigRecord]

LARGE = 2**16  # bytes of a frame that travels as an Array
_PRINT = 11  # characters of a fingerprint of 8 bytes in base64, without padding
_DERIVED = re.compile(rf"[\w-]{{{_PRINT}}}\d{{0,7}}", re.ASCII)
_CLAIM = re.compile(r"(\d{1,7})/(\d{1,7})", re.ASCII)


def enclosed(frame: bytes | None, head: bytes = b"") -> Content:
    """Return the records of a message that hold a head and a frame, where there are any."""
    if frame is not None and len(frame) >= LARGE:
        record = {ARRAYS: pack_record(frame)}
        return {**record, BARE: ConfigRecord({BARE: head})} if head else {**record}
    return {BARE: ConfigRecord({BARE: head + (frame or b"")})}


def opened(content: RecordDict, head: Head | None = None) -> tuple[dict[str, Any], bytes | None]:
    """Return what the head of a message says, and its frame; None if it brings none.

    Parameters
    ----------
    head : Head or None
        The head that it has; None for a message that holds a frame alone.

    Raises
    ------
    WireError
        If head or frame are missing or of another type, or there are two frames.
    """
    if BARE not in content:
        if head is not None or ARRAYS not in content:
            raise WireError(
                f"the message holds no record '{BARE}' with its {'head' if head else 'frame'}: "
                "is the same Thinwire version installed on both sides?"
            )
        return {}, unpack_record(content)
    record = content[BARE]
    data = record.get(BARE) if isinstance(record, ConfigRecord) and len(record) == 1 else None
    if type(data) is not bytes:
        raise WireError(f"the record '{BARE}' does not hold bytes under '{BARE}' alone")
    said, rest = head.read(data) if head else ({}, data)
    if ARRAYS not in content:
        return said, rest or None
    if rest:
        raise WireError(f"the message holds a frame in '{BARE}' and another one in '{ARRAYS}'")
    return said, unpack_record(content)


def frame_in(content: RecordDict) -> bytes:
    """Return the frame of a message that has no head; WireError if it holds none."""
    _, frame = opened(content)
    if frame is None:
        raise WireError("the message holds no frame")
    return frame


# ---- what needs neither -----------------------------------------------------------------------


def derived(manifest: bytes, partition: int | None) -> str:
    """Return the group id of a first download whose theta0 the client itself rebuilds.

    Parameters
    ----------
    manifest : bytes
        The fingerprint of theta0, 8 bytes.
    partition : int or None
        The client that it asks; None for the one that the node has.
    """
    text = base64.urlsafe_b64encode(manifest).decode().rstrip("=")
    return text if partition is None else f"{text}{partition}"


def question(message: Message, manifest: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Return what the message for a turn says, and its frame: None if theta0 is to be rebuilt.

    Parameters
    ----------
    manifest : bytes
        Of this side's theta0.

    Raises
    ------
    WireError
        If it is none that a server writes, or from another theta0.
    """
    if not message.has_content():
        raise WireError("the message has no content")
    content, group = message.content, message.metadata.group_id
    if not group:
        said, frame = opened(content, QUESTION)
        if frame is None:
            raise WireError("the message brings no frame")
        return said, frame
    if {*content} - {CONFIG}:
        raise WireError("the message says whom it asks in its group id, and in its records")
    said = _read_derived(group)
    if not group.startswith(derived(manifest, None)):
        raise WireError(
            f"theta0 or the trained tensors differ (group id {printable(group)}, manifest here "
            f"{manifest.hex()}): same model weights, adapter, seed and version on both sides?",
            kind="other_model",
        )
    return said, None


def whom(message: Message) -> dict[str, Any]:
    """Return what a turn's question says of round and client, for a log; nothing if it is none."""
    if not message.has_content():
        return {}
    try:
        group = message.metadata.group_id
        return _read_derived(group) if group else opened(message.content, QUESTION)[0]
    except WireError:
        return {}


def _read_derived(group: str) -> dict[str, Any]:
    if _DERIVED.fullmatch(group) is None:
        raise WireError(f"the group id {printable(group, most=40)!r} does not say whom it asks")
    said = {ROUND: 1, ACCEPTED: 0}
    return {**said, PARTITION: int(group[_PRINT:])} if group[_PRINT:] else said


def claim(part: int, parts: int) -> str:
    """Return the group id of an answer to the set-up: the node serves ``part`` of ``parts``."""
    return f"{part}/{parts}"


def read_claim(group: str) -> dict[str, int]:
    """Return ``partition-id`` and ``num-partitions`` of an answer; WireError if it says neither."""
    found = _CLAIM.fullmatch(group)
    if found is None:
        raise WireError(
            f"the answer's group id is {printable(group, most=40)!r}, and not partition/partitions"
        )
    return {HELD: int(found[1]), PARTITIONS: int(found[2])}
