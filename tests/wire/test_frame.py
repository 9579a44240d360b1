"""Frames: golden bytes, and nothing but WireError for anything that is not an honest frame."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import CodecError, Wire, WireError, chain, delta, fp32, from_spec, nf4
from fl_app.codecs.streams.bits import varint
from fl_app.wire import former
from fl_app.wire.frame import HEADER_BYTES, manifest, pack, unpack
from tests import make_golden
from tests.combinations import combinations

CRC_AT = HEADER_BYTES - 4
REF = make_golden.tree(salt=1000)
MANIFEST = manifest(REF)


def golden(name: str) -> bytes:
    path = make_golden.FOLDER / f"{name}.bin"
    assert path.exists(), f"{path} is missing; goldens are committed, never made by a test"
    return path.read_bytes()


def receive(frame, name: str):
    codec = from_spec(make_golden.SPECS[name])
    return codec.decode(unpack(frame, codec, MANIFEST), REF)


def sealed(frame: bytes) -> bytes:
    """The frame with a CRC made to fit: what an attacker, not a bad link, would send."""
    head, body = frame[:CRC_AT], frame[HEADER_BYTES:]
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def joined(sections) -> bytes:
    """The body of a frame with these sections."""
    *first, last = sections
    return b"".join(varint(len(part)) + part for part in first) + last


@pytest.mark.parametrize("name", make_golden.SPECS)
def test_golden_bytes_have_not_changed(name):
    assert make_golden.frame(make_golden.SPECS[name]) == golden(name), (
        "the byte format changed: raise fl_app.wire.frame.VERSION, then run tests/make_golden.py"
    )
    digests = json.loads(make_golden.DIGESTS.read_text())
    assert make_golden.decoded(make_golden.SPECS[name], golden(name)) == digests[name]


def test_every_golden_file_belongs_to_a_spec():
    files = {path.stem for path in make_golden.FOLDER.glob("*.bin")}
    assert files == set(make_golden.SPECS)
    assert set(json.loads(make_golden.DIGESTS.read_text())) == files


@pytest.mark.parametrize("name", make_golden.SPECS)
def test_every_truncation_is_a_wire_error(name):
    frame = golden(name)
    for end in range(len(frame)):
        with pytest.raises(WireError):
            receive(frame[:end], name)


@pytest.mark.parametrize(
    "name", combinations(make_golden.SPECS, suite=["nf4", "by_part", "entropy_rans", "sign"])
)
def test_every_single_bit_flip_is_a_wire_error(name):
    frame = bytearray(golden(name))
    for bit in range(8 * len(frame)):
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            receive(frame, name)
        frame[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.methods)])
@pytest.mark.parametrize("name", make_golden.SPECS)
def test_what_an_attacker_seals_is_a_wire_error_or_a_finite_tree(name, step):
    """Bit flips (the suite: every third) and cuts of the body, with the CRC mended."""
    frame = bytearray(golden(name))
    for bit in range(8 * HEADER_BYTES, 8 * len(frame), step):
        frame[bit // 8] ^= 1 << bit % 8
        wire_error_or_finite(sealed(bytes(frame)), name)
        frame[bit // 8] ^= 1 << bit % 8
    sections = unpack(bytes(frame), from_spec(make_golden.SPECS[name]), MANIFEST).sections
    for i, section in enumerate(sections):
        for end in range(0, len(section), step):
            body = joined((*sections[:i], section[:end], *sections[i + 1 :]))
            wire_error_or_finite(sealed(bytes(frame[:HEADER_BYTES]) + body), name)


def wire_error_or_finite(frame: bytes, name: str) -> None:
    try:
        tree = receive(frame, name)
    except WireError:
        return
    assert {k: x.shape for k, x in tree.items()} == {k: r.shape for k, r in REF.items()}
    assert all(np.isfinite(x).all() for x in tree.values())


@pytest.mark.parametrize("name", make_golden.SPECS)
def test_trailing_bytes_are_a_wire_error(name):
    for tail in (b"\0", b"T\3", golden(name)):
        with pytest.raises(WireError, match="CRC"):
            receive(golden(name) + tail, name)


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_a_wire_error(data):
    with pytest.raises(WireError):
        receive(data, "nf4")


@pytest.mark.parametrize("name", make_golden.SPECS)
@given(body=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_random_bodies_behind_an_honest_header_are_a_wire_error(name, body):
    with pytest.raises(WireError):
        receive(sealed(golden(name)[:HEADER_BYTES] + body), name)


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 1, 2**63])
def test_a_length_that_claims_gigabytes_allocates_nothing(size):
    frame = golden("nf4")
    claim = sealed(frame[:HEADER_BYTES] + varint(size) + frame[HEADER_BYTES + 1 :])
    tracemalloc.start()
    with pytest.raises(WireError):
        receive(claim, "nf4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_the_first_reason_is_the_most_helpful_one():
    frame, codec, other = golden("nf4"), nf4(), bytes(8)
    body_flip = frame[:-1] + bytes([frame[-1] ^ 1])
    cases = [
        (b"", codec, MANIFEST, "not a Thinwire frame"),
        (b"PK\x03\x04" + frame[4:], codec, MANIFEST, "not a Thinwire frame"),
        (frame[:10], codec, MANIFEST, "truncated"),
        (b"T\x09" + frame[2:-3], codec, MANIFEST, "version 9"),
        (b"TWIR\x02" + frame[5:], codec, MANIFEST, "version 2, this side reads 3: install"),
        (frame[:-3], fp32(), other, "truncated"),
        (body_flip, fp32(), other, "CRC"),
        (frame, fp32(), other, "another codec: check codec= on both sides"),
        (frame, codec, other, "theta0 or the trained tensors differ"),
    ]
    for data, here, seen, message in cases:
        with pytest.raises(WireError, match=message):
            unpack(data, here, seen)


def test_the_last_section_is_the_rest():
    head = golden("nf4")[:HEADER_BYTES]
    assert unpack(sealed(head + b"\1abc"), nf4(), MANIFEST).sections == (b"a", b"bc")
    assert unpack(sealed(head + b"\0"), nf4(), MANIFEST).sections == (b"", b"")
    for body, message in [
        (b"", "the length of section 0 of 2"),
        (b"\x81", "the length of section 0 of 2"),
        (b"\x81\0a", "longer than needed"),
        (b"\2b", "section 0 claims 2 bytes, 1 are left"),
        (b"\xff\xff\xff\xff\x7f", "at most 4294967295"),
    ]:
        with pytest.raises(WireError, match=message):
            unpack(sealed(head + body), nf4(), MANIFEST)


def test_any_buffer_of_bytes_is_a_frame():
    frame = golden("delta_nf4")
    for kind in (bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8).data):
        assert list(receive(kind(frame), "delta_nf4")) == list(REF)


def test_the_header_has_22_bytes():
    frame = pack(Wire((b"",)), fp32(), bytes(8))
    assert frame[:-4] == b"T\x03" + fp32().fingerprint + bytes(8)
    two = pack(Wire((b"a" * 200, b"bc")), nf4(), MANIFEST)
    assert two[HEADER_BYTES:] == b"\xc8\x01" + b"a" * 200 + b"bc"


# ---- frames of the version before -----------------------------------------------------------


def of_version_2(sections, codec=None, manifest: bytes = MANIFEST) -> bytes:
    """A frame as version 2 wrote it."""
    body = b"".join(struct.pack("<I", len(part)) + part for part in sections)
    print_ = (codec or nf4()).fingerprint
    head = struct.pack("<4sB3s8s8sI", b"TWIR", 2, bytes(3), print_, manifest, len(body))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_a_frame_of_version_2_has_the_same_sections_in_todays_header(sections):
    codec, seen = SimpleNamespace(sections=len(sections), fingerprint=bytes(8)), b"manifest"
    found = former.today(of_version_2(sections, codec, seen))
    assert unpack(found, codec, seen).sections == tuple(sections)
    assert former.today(found) is found


def test_a_damaged_frame_of_version_2_is_a_wire_error():
    frame = bytearray(of_version_2([b"abc", b"de"]))
    for end in range(5, len(frame)):
        with pytest.raises(WireError):
            former.today(bytes(frame[:end]))
    for bit in range(8 * 5, 8 * len(frame)):
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            former.today(bytes(frame))
        frame[bit // 8] ^= 1 << bit % 8
    body = struct.pack("<I", 2**32 - 1) + b"a"
    head = bytes(frame[:24]) + struct.pack("<I", len(body))
    claim = head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body
    with pytest.raises(WireError, match="section 0 claims 4294967295 bytes, 1 are left"):
        former.today(claim)


def test_pack_refuses_what_unpack_could_not_read():
    x = {"x": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="8"):
        pack(Wire((b"",)), fp32(), b"short")
    with pytest.raises(CodecError, match="leaves values"):
        pack(Wire((), x), chain(delta()), MANIFEST)
    with pytest.raises(CodecError, match="leaves values"):
        pack(Wire((b"",), x), fp32(), MANIFEST)
    with pytest.raises(CodecError, match="2 sections"):
        pack(Wire((b"", b"")), fp32(), MANIFEST)
