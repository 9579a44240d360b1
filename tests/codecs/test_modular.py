"""The integers of secure aggregation: what is added decodes to the mean, exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import Wire, WireError, chain, delta, fp32, modular, nf4
from fl_app.codecs.modular import Ring, ring
from fl_app.codecs.streams import words


@given(st.integers(1, 56), st.integers(0, 40_000), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_words_of_any_width_survive(bits: int, count: int, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 2**bits, count, np.uint64, endpoint=False)
    packed = words.pack(raw.astype(words.dtype(bits)), bits)
    assert len(packed) == words.nbytes(bits, count) == -(-bits * count // 8)
    assert (words.unpack(packed, bits, count) == raw).all()
    text = "".join(f"{int(x):0{bits}b}" for x in raw[:50])
    written = "".join(f"{byte:08b}" for byte in packed)
    assert written.startswith(text)


def test_words_with_a_filled_padding_are_refused() -> None:
    with pytest.raises(WireError, match="padded"):
        words.unpack(b"\xff\xff", 5, 3)
    with pytest.raises(WireError, match="bytes"):
        words.unpack(b"\xff\xff", 5, 1)


@given(
    bits=st.integers(2, 24), clients=st.integers(1, 40), most=st.integers(1, 5000),
    extreme=st.booleans(), seed=st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_sum_of_messages_is_the_message_of_the_mean(
    bits: int, clients: int, most: int, extreme: bool, seed: int
) -> None:
    """Bit for bit, also where every client sends the largest value with the largest weight."""
    rng = np.random.default_rng(seed)
    ref = {"a": rng.normal(size=(3, 5)).astype(np.float32), "b": np.float32([2])}
    codec = chain(delta(), modular(clip=0.5, bits=bits, clients=clients, max_weight=most))
    here = ring(codec.spec)
    count = int(rng.integers(1, clients + 1))
    weights = [most if extreme else int(rng.integers(1, most + 1)) for _ in range(count)]
    total, levels = np.zeros(17, words.dtype(here.bits)), np.zeros(16, np.int64)
    sign = rng.choice([-1, 1])
    for weight in weights:
        change = np.full(16, sign) if extreme else rng.uniform(-0.6, 0.6, 16)
        tree = {
            "a": ref["a"] + np.float32(change[:15].reshape(3, 5)),
            "b": ref["b"] + np.float32(change[15:]),
        }
        wire, _ = codec.encode(tree, codec.init(ref), ref)
        message = words.unpack(wire.sections[0], here.bits, 17)
        assert message[-1] == 1
        levels += weight * here.levels(message[:-1])
        total = total + here.weighted(message, weight) & here.mask
    assert total[-1] == sum(weights)
    assert (here.levels(total[:-1]) == levels).all()
    mean = codec.decode(Wire((words.pack(total, here.bits),)), ref)
    step = 0.5 / (2 ** (bits - 1) - 1)
    flat = np.concatenate([mean["a"].ravel() - ref["a"].ravel(), mean["b"] - ref["b"]])
    np.testing.assert_allclose(flat, levels * (step / sum(weights)), atol=1e-6)
    if extreme:
        assert np.abs(levels).max() == here.largest * most * count


def test_what_is_no_sum_is_refused() -> None:
    ref = {"a": np.zeros(3, np.float32)}
    codec = modular(clip=1.0, bits=8, clients=4, max_weight=2)
    here = ring(codec.spec)

    def decode(levels: list[int], weight: int):
        codec.decode(Wire((here.pack(np.array(levels), weight),)), ref)

    decode([127 * 8, -127 * 8, 0], 8)
    for levels, weight, says in (
        ([0, 0, 0], 0, "1..8"), ([0, 0, 0], 9, "1..8"), ([128, 0, 0], 1, "1 times 127"),
        ([0, -3 * 127 - 1, 0], 3, "3 times 127"),
    ):  # fmt: skip
        with pytest.raises(WireError, match=says):
            decode(levels, weight)
    for weight in (0, 3):
        with pytest.raises(ValueError, match=r"1\.\.2"):
            here.weighted(np.ones(4, np.uint32), weight)


def test_codecs_without_a_sum_have_no_ring() -> None:
    assert ring(modular(clip=1, bits=8, clients=4).spec) == Ring(127, 4, 1)
    for codec in (fp32(), chain(delta(), nf4())):
        with pytest.raises(ValueError, match="codec=modular"):
            ring(codec.spec)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clip": 0}, "clip"), ({"clip": float("nan")}, "clip"), ({"clip": "1"}, "clip"),
        ({"clip": 1e39}, "clip"), ({"bits": 1}, "bits"), ({"bits": 25}, "bits"),
        ({"bits": 8.0}, "bits"), ({"clients": 0}, "clients"), ({"max_weight": True}, "max_weight"),
        ({"bits": 24, "clients": 2**30, "max_weight": 2**20}, "lower bits"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        modular(**{"clip": 1.0, "bits": 8, "clients": 4, **wrong})
