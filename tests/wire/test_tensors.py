"""Tensors as bytes that describe themselves: what comes back, and what is refused."""

import json
import random
import struct
import zlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_app.codecs import WireError, from_spec
from fl_app.tree import digest, zeros
from fl_app.wire.frame import unpack
from fl_app.wire.tensors import START, compress, decompress
from tests.wire.test_frame import of_version_2

RNG = np.random.default_rng(0)
TREE = {
    "a.weight": RNG.normal(size=(16, 8)).astype(np.float32),
    "a.bias": RNG.normal(size=8).astype(np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "scale": np.array(3, np.float32),
}
REFERENCE = {name: np.asarray(x + np.float32(0.5)) for name, x in TREE.items()}
FP32 = {"id": "fp32"}
NF4 = {"id": "nf4"}
NF4_ERROR = 0.16  # half the widest gap between its levels is 0.152 of the largest
DELTA = {"id": "chain", "links": [{"id": "delta"}, NF4]}
SPECS = (
    *(FP32, {"id": "fp16"}, NF4, {"id": "int8"}, {"id": "sign"}, DELTA),
    {"id": "error_feedback", "inner": {"id": "chain", "links": [{"id": "top_k"}, {"id": "fp32"}]}},
    {"id": "entropy", "inner": {"id": "uniform", "error": 0.1}},
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["id"])
@pytest.mark.parametrize("like", [None, REFERENCE])
def test_what_comes_back_is_what_the_codec_decodes(spec, like) -> None:
    codec = from_spec(spec)
    ref = zeros(TREE) if like is None else like
    wanted = codec.decode(codec.encode(TREE, codec.init(ref), ref)[0], ref)
    data = compress(TREE, spec, like)
    assert data == compress(dict(TREE), spec, like)
    back = decompress(data, like)
    assert list(back) == list(TREE)
    for name, x in back.items():
        assert x.shape == TREE[name].shape
        np.testing.assert_array_equal(x, wanted[name])
        x[...] = 0  # it belongs to the caller


def test_tensors_of_torch_come_back_as_such() -> None:
    state = OrderedDict(
        half=torch.randn(4, 4, dtype=torch.bfloat16),
        tied=torch.randn(3, 2).T,
        number=torch.ones(()),
    )
    back = decompress(compress(state, FP32))
    for name, x in state.items():
        assert torch.equal(back[name], x.float())
    mixed = {name: x.flip(0) if x.ndim else x for name, x in reversed(state.items())}
    back = decompress(compress(mixed, DELTA, like=state), like=state)
    for name, x in mixed.items():
        change = (x.float() - state[name].float()).abs().max()
        torch.testing.assert_close(back[name], x.float(), rtol=0, atol=float(change) * NF4_ERROR)


@given(st.integers(0, 2**32))
def test_changed_bytes_are_refused(seed: int) -> None:
    draw, data = random.Random(seed), bytearray(compress(TREE, NF4))
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    with pytest.raises(WireError):
        decompress(data)
    whole = compress(TREE, NF4)
    cut = draw.randrange(len(whole))
    for damaged in (whole[:cut], whole[:cut] + b"x" + whole[cut:], whole[cut:] + whole[:cut]):
        if damaged != whole:
            with pytest.raises(WireError):
                decompress(damaged)


def test_what_was_compressed_with_frames_of_version_2_is_read() -> None:
    whole = compress(TREE, NF4)
    (length,) = struct.unpack_from("<I", whole, 8)
    head, frame = whole[: START + length], whole[START + length :]
    codec, manifest = from_spec(NF4), frame[10:18]
    sections = unpack(frame, codec, manifest).sections
    former = decompress(head + of_version_2(sections, codec, manifest))
    assert digest(former) == digest(decompress(whole))


def described(**said: object) -> bytes:
    """Return bytes whose description says something else, with a CRC that is right."""
    whole = compress(TREE, NF4)
    (length,) = struct.unpack_from("<I", whole, 8)
    description = json.loads(whole[START : START + length]) | said
    text = json.dumps({k: v for k, v in description.items() if v != "-"}).encode()
    head = whole[:8] + struct.pack("<I", len(text))
    crc = struct.pack("<I", zlib.crc32(text, zlib.crc32(head)))
    return head + crc + text + whole[START + length :]


@pytest.mark.parametrize(
    "said",
    [
        {"codec": {"id": "fp32"}},
        {"codec": {"id": "evil"}},
        {"codec": {"id": "delta"}},
        {"codec": ["nf4"]},
        {"codec": "-"},
        {"tensors": 3},
        {"tensors": [["a", [2**40]]]},
        {"tensors": [["a", [2**32, 2**32, 0]], ["b", [0] * 40]]},
        {"tensors": [["a", [2**31, 3]]]},
        {"tensors": [["a", [1]], ["a", [1]]]},
        {"tensors": [["a", [-1]]]},
        {"tensors": [["a", [1.0]]]},
        {"tensors": []},
        {"torch": True},
    ],
)
def test_a_hostile_description_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decompress(described(**said))


def test_another_reference_is_refused_and_a_missing_one_is_asked_for() -> None:
    data = compress(TREE, DELTA, like=REFERENCE)
    with pytest.raises(ValueError, match="give the same reference"):
        decompress(data)
    with pytest.raises(WireError, match="like is not the reference"):
        decompress(data, like=TREE)
    with pytest.raises(ValueError, match="leave it out"):
        decompress(compress(TREE, DELTA), like=REFERENCE)


@pytest.mark.parametrize(
    ("tensors", "spec", "says"),
    [
        (TREE, "nf4", "a mapping with an 'id'"),
        (TREE, {"id": "delta"}, "end the chain"),
        (TREE, {"id": "nf4", "blok": 3}, "Did you mean 'block'"),
        (torch.nn.Linear(1, 1), FP32, "model.state_dict"),
        ([1.0], FP32, "mapping of names"),
        ({"a": [1.0]}, FP32, "'a'.*convert it"),
        ({"a": np.ones(3)}, FP32, "float64"),
        ({"a": torch.ones(3, dtype=torch.int64)}, FP32, "int64"),
        ({"a": np.float32([np.nan])}, FP32, "NaN"),
    ],
)
def test_what_cannot_be_compressed_is_one_clear_error(tensors, spec, says) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        compress(tensors, spec)


def test_tensors_that_are_not_those_of_the_reference_are_refused() -> None:
    with pytest.raises(ValueError, match=r"missing \['scale'\]"):
        compress({name: x for name, x in TREE.items() if name != "scale"}, DELTA, like=REFERENCE)
    with pytest.raises(ValueError, match="shape"):
        compress(TREE | {"a.bias": TREE["a.bias"][:3]}, DELTA, like=REFERENCE)


def test_a_few_bytes_take_no_memory_for_what_they_announce() -> None:
    """Also not for a codec that decodes them from nothing."""
    data = compress({"a": np.zeros(2**16, np.float32)}, {"id": "nf4"})
    with pytest.raises(WireError, match="65,536 values, more than most_values=65,535"):
        decompress(data, most_values=2**16 - 1)
    assert decompress(data, most_values=2**16)["a"].size == 2**16


def test_a_spec_of_many_codecs_is_refused() -> None:
    links = [{"id": "delta"}] * 40 + [{"id": "fp32"}]
    data = compress({"a": np.zeros(2, np.float32)}, {"id": "chain", "links": links})
    with pytest.raises(WireError, match="more than 32"):
        decompress(data)
