"""Heads: golden bytes, every value back, and nothing but WireError for what is none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.codecs import WireError
from fl_app.wire.heads import QUESTION, REPLY

COUNTS = st.integers(0, 2**63 - 1)
SINGLES = st.floats(width=32, allow_nan=False)
SAID = {
    QUESTION: st.fixed_dictionaries({}, optional=dict.fromkeys(QUESTION.fields, COUNTS)),
    REPLY: st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("num-examples", "since", "partition-id"), COUNTS),
            "loss": st.floats(allow_nan=False),
            **dict.fromkeys(("decode", "work", "encode"), SINGLES),
        },
    ),
}

GOLDEN = [
    (QUESTION, {}, "0300"),
    (QUESTION, {"server-round": 1, "partition": 3}, "03030103"),
    (
        QUESTION,
        {"server-round": 300, "partition": 7, "accepted": 299, "form": 1},
        "030fac0207ab0201",
    ),
    (REPLY, {"decode": 0.25, "work": 2.0, "encode": 0.0}, "031c0000803e0000004000000000"),
    (
        REPLY,
        {
            "num-examples": 1600, "loss": 0.1, "decode": 0.25, "work": 2.0, "encode": 0.5,
            "since": 4, "partition-id": 9,
        },
        "037fc00c9a9999999999b93f0000803e000000400000003f0409",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("head", "said", "written"), GOLDEN)
def test_golden_heads_have_not_changed(head, said, written: str) -> None:
    """Other bytes need another version of the frame."""
    assert head.write(said).hex() == written
    assert head.read(bytes.fromhex(written)) == (said, b"")


@pytest.mark.parametrize("head", SAID, ids=["question", "reply"])
@given(data=st.data(), rest=st.binary(max_size=20))
def test_what_is_written_is_read_and_the_rest_is_left(head, data, rest: bytes) -> None:
    said = data.draw(SAID[head])
    written = head.write(said)
    assert head.read(written + rest) == (said, rest)
    for end in range(len(written)):
        with pytest.raises(WireError):
            head.read(written[:end])


@given(st.binary(max_size=60))
def test_random_bytes_are_a_wire_error_or_the_only_form_of_what_they_say(data: bytes) -> None:
    for head in SAID:
        try:
            said, rest = head.read(b"\3" + data)
        except WireError:
            continue
        nans = any(value != value for value in said.values())
        assert nans or head.write(said) + rest == b"\3" + data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated: 0 bytes"),
        (b"\3", "truncated: 1 bytes"),
        (b"T\3", "a message of version 84, this side reads 3: install the same"),
        (b"\4\0", "a message of version 4, this side reads 3"),
        (b"\3\x40", "the head has fields 0x40, and there are 6"),
        (b"\3\1", "server-round: no count"),
        (b"\3\1\x81", "server-round: no count"),
        (b"\3\1\x81\0", "server-round: no count"),  # 1, longer than needed
        (b"\3\2" + b"\xff" * 9 + b"\1", "partition: no count"),  # 2^64 - 1
        (b"\3\2" + b"\xff" * 5_000_000, "partition: no count"),
    ],
)
def test_a_head_that_is_none_is_named(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        QUESTION.read(data)


def test_a_reply_that_ends_in_a_number_is_named() -> None:
    with pytest.raises(WireError, match="the head ends before work"):
        REPLY.read(REPLY.write({"decode": 1.0, "work": 1.0})[:-1])


@pytest.mark.parametrize(
    "said", [{"partition": -1}, {"partition": 2**63}, {"partition": 1.0}, {"partition": True},
             {"partition": None}, {"rank": 1}],
)  # fmt: skip
def test_what_a_head_cannot_hold_is_not_written(said) -> None:
    with pytest.raises(ValueError, match=r"partition=|no field"):
        QUESTION.write(said)


def test_the_longest_heads_are_short() -> None:
    most = dict.fromkeys(("num-examples", "since", "partition-id"), 2**29)
    whole = {**most, "loss": 0.0, "decode": 0.0, "work": 0.0, "encode": 0.0}
    assert len(REPLY.write(whole)) == 2 + 3 * 5 + 8 + 3 * struct.calcsize("<f")
