"""Frames that a peer has made up: a WireError or a tree, and never more memory than an honest one.

Every codec of the table of laws, alone and behind the entropy coder, whose sections say themselves
how long they are.
"""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import Codec, Wire, WireError, entropy
from fl_app.wire.frame import manifest, pack, unpack
from tests.codecs.test_codec_laws import TABLE, encode, fixed_tree

CODECS: dict[str, Codec] = {name: row.codec for name, row in TABLE.items()}
CODECS |= {f"entropy({name})": entropy(codec) for name, codec in CODECS.items()}
REF = fixed_tree(2, [(100, 150), (3,)])
NBYTES = sum(x.nbytes for x in REF.values())
LENGTHS = [b"", b"\x01", b"\x7f", b"\xff\x7f", b"\xff\xff\x7f", b"\xff" * 9 + b"\x01", b"\xff" * 99]

_honest: dict[str, tuple[tuple[bytes, ...], int]] = {}


def honest(name: str) -> tuple[tuple[bytes, ...], int]:
    """Return sections that a sender writes, and the peak of memory of decoding them."""
    if name not in _honest:
        codec = CODECS[name]
        sections = encode(codec, fixed_tree(1, [x.shape for x in REF.values()]), REF).sections
        codec.decode(Wire(sections), REF)  # compiled kernels are not the decode's memory
        _honest[name] = sections, peak(codec, sections)
    return _honest[name]


def peak(codec: Codec, sections: tuple[bytes, ...]) -> int:
    """Return the most memory that decoding takes, whatever comes of it."""
    tracemalloc.start()
    try:
        tree = codec.decode(Wire(sections), REF)
    except WireError:
        pass
    else:
        assert [(n, x.shape) for n, x in tree.items()] == [(n, x.shape) for n, x in REF.items()]
        assert all(np.isfinite(x).all() for x in tree.values())
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


@st.composite
def forged(draw: st.DrawFn, section: bytes) -> bytes:
    """Return a section that is nearly the honest one, or a short one that claims much."""
    way = draw(st.sampled_from(["flip", "cut", "grow", "claim", "same"]))
    if way == "claim":  # a coder's tag, a length, and little behind it
        parts = st.sampled_from(range(8)), st.sampled_from(LENGTHS), st.binary(max_size=12)
        tag, length, body = (draw(part) for part in parts)
        return bytes([tag]) + length + body
    if way == "cut":
        return section[: draw(st.integers(0, len(section)))]
    if way == "grow":
        at = draw(st.integers(0, len(section)))
        return section[:at] + draw(st.binary(min_size=1, max_size=40)) + section[at:]
    changed = bytearray(section)
    if way == "flip" and section:
        for _ in range(draw(st.integers(1, 4))):
            # Headers are where lengths, counts and tables are.
            at = draw(st.one_of(st.integers(0, min(20, len(section)) - 1),
                                st.integers(0, len(section) - 1)))  # fmt: skip
            changed[at] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_forged_frame_is_refused_or_a_tree_and_takes_no_more_memory(name: str, data) -> None:
    sections, expected = honest(name)
    changed = tuple(data.draw(forged(section)) for section in sections)
    most = 2 * expected + 4 * NBYTES + 50_000
    # The first decode of its kind may compile a kernel, whose memory is not the frame's.
    assert peak(CODECS[name], changed) <= most or peak(CODECS[name], changed) <= most


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_lengths_of_a_frame_are_compared_with_what_is_there(data) -> None:
    """With a checksum that fits, as whoever writes a frame can make one."""
    codec = CODECS["entropy(nf4)"]
    sections, _ = honest("entropy(nf4)")
    frame = bytearray(pack(Wire(sections), codec, manifest(REF)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from([*range(22, 28), len(frame) - 1]))
        frame[at] = data.draw(st.integers(0, 255))
    del frame[data.draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame)))) :]
    if len(frame) >= 22:
        frame[18:22] = struct.pack("<I", zlib.crc32(frame[22:], zlib.crc32(frame[:18])))
    tracemalloc.start()
    try:
        unpack(bytes(frame), codec, manifest(REF))
    except WireError:
        pass
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found <= 3 * len(frame) + 50_000
