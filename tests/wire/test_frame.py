"""Frames: golden bytes, and nothing but WireError for anything that is not an honest frame."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import CodecError, Wire, WireError, chain, delta, fp32, from_spec, nf4
from fl_app.wire.frame import HEADER_BYTES, manifest, pack, unpack
from tests import make_golden
from tests.combinations import combinations

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
    """The frame with length and CRC made to fit: what an attacker, not a bad link, would send."""
    body = frame[HEADER_BYTES:]
    head = frame[:24] + struct.pack("<I", len(body))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


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
    """Bit flips (the suite: every third) and cuts of the body, with lengths and CRC mended."""
    frame = bytearray(golden(name))
    for bit in range(8 * HEADER_BYTES, 8 * len(frame), step):
        frame[bit // 8] ^= 1 << bit % 8
        wire_error_or_finite(sealed(bytes(frame)), name)
        frame[bit // 8] ^= 1 << bit % 8
    sections = unpack(bytes(frame), from_spec(make_golden.SPECS[name]), MANIFEST).sections
    for i, section in enumerate(sections):
        for end in range(0, len(section), step):
            body = b"".join(
                struct.pack("<I", len(part)) + part
                for part in (*sections[:i], section[:end], *sections[i + 1 :])
            )
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
    for tail in (b"\0", b"TWIR", golden(name)):
        with pytest.raises(WireError, match="trailing"):
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


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 1])
def test_a_length_that_claims_gigabytes_allocates_nothing(size):
    frame = golden("nf4")
    claims = [
        frame[:24] + struct.pack("<I", size) + frame[28:],
        sealed(frame[:HEADER_BYTES] + struct.pack("<I", size) + frame[HEADER_BYTES + 4 :]),
    ]
    for claim in claims:
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
        (frame[:4] + b"\x09" + frame[5:-3], codec, MANIFEST, "version 9"),
        (frame[:-3], fp32(), other, "truncated: the header announces"),
        (body_flip, fp32(), other, "CRC"),
        (sealed(frame[:5] + b"\1" + frame[6:]), codec, MANIFEST, "reserved"),
        (frame, fp32(), other, "another codec: check codec= on both sides"),
        (frame, codec, other, "theta0 or the trained tensors differ"),
    ]
    for data, here, seen, message in cases:
        with pytest.raises(WireError, match=message):
            unpack(data, here, seen)


def test_sections_must_fill_the_body_exactly():
    head = golden("nf4")[:HEADER_BYTES]
    one, two = struct.pack("<I", 1) + b"a", struct.pack("<I", 2) + b"bc"
    assert unpack(sealed(head + one + two), nf4(), MANIFEST).sections == (b"a", b"bc")
    for body, message in [
        (one, "ends before section 1 of 2"),
        (one + b"\0\0", "ends before section 1 of 2"),
        (one + two[:-1], "section 1 claims 2 bytes, 1 are left"),
        (one + two + b"x", "1 bytes after the last section"),
        (one + two + one, "after the last section"),
    ]:
        with pytest.raises(WireError, match=message):
            unpack(sealed(head + body), nf4(), MANIFEST)


def test_any_buffer_of_bytes_is_a_frame():
    frame = golden("delta_nf4")
    for kind in (bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8).data):
        assert list(receive(kind(frame), "delta_nf4")) == list(REF)


def test_the_header_has_32_bytes():
    frame = pack(Wire((b"",)), fp32(), bytes(8))
    assert len(frame) == 32 + 4
    assert frame[:8] == b"TWIR\x02\0\0\0"
    assert frame[8:16] == fp32().fingerprint


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
