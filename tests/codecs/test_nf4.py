"""NF4: the bits of bitsandbytes, and what 4 bits promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, nf4
from fl_app.codecs.nf4 import CODEBOOK
from fl_app.codecs.parts.block_kernels import FLOOR
from tests.codecs.sending import encode, there_and_back

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes.functional")

MIDPOINTS = (CODEBOOK[:-1] + CODEBOOK[1:]) / np.float32(2)


def bnb_encode(x: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
    packed, state = bnb.quantize_4bit(torch.from_numpy(x), blocksize=block, quant_type="nf4")
    return packed.numpy().reshape(-1), state.absmax.numpy()


def sent(x: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes, two a byte, and the scales."""
    wire = encode(nf4(block), {"x": x})
    return np.frombuffer(wire.sections[1], np.uint8), np.frombuffer(wire.sections[0], np.float32)


def codes(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def bits(x: np.ndarray) -> list[int]:
    return x.view(np.uint32).tolist()


def differs_from_bnb(x: np.ndarray, block: int) -> np.ndarray:
    """Mask of the values in full blocks with 0 < absmax < 1e-38, the one documented exception."""
    mask = np.zeros(x.size + x.size % 2, bool)
    for start in range(0, x.size // block * block, block):
        most = np.abs(x[start : start + block]).max()
        mask[start : start + block] = 0 < most < FLOOR
    return mask


def check_against_bnb(x: np.ndarray, block: int) -> None:
    want_packed, want_absmax = bnb_encode(x, block)
    packed, absmax = sent(x, block)
    assert bits(absmax) == bits(want_absmax)
    same = codes(packed) == codes(want_packed)
    assert np.all(same | differs_from_bnb(x, block))


@st.composite
def any_finite(draw, max_size=200):
    """Floats by their bits (denormals and huge ones as likely as others), one scale or mixed."""
    raw = draw(hnp.arrays(np.uint32, draw(st.integers(1, max_size))))
    if draw(st.booleans()):
        exponent = draw(st.integers(0, 254))
        raw = (raw & np.uint32(0x807FFFFF)) | np.uint32(exponent << 23)
    x = raw.view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(1))


# --- bitsandbytes ---------------------------------------------------------------------------------


def test_codebook_is_bitsandbytes():
    assert bits(CODEBOOK) == bits(bnb.get_4bit_type("nf4", device="cpu").numpy())


@given(x=any_finite(), block=st.sampled_from([32, 64, 128]))
@settings(max_examples=150, deadline=None)
def test_bits_are_bitsandbytes(x, block):
    check_against_bnb(x, block)


@pytest.mark.parametrize("block", [64, 128, 256, 512, 1024, 2048, 4096])
def test_bits_are_bitsandbytes_for_every_block_size(block):
    rng = np.random.default_rng(block)
    for n in (block - 1, block, block + 1, 3 * block + block // 2 + 1, 20_000):
        check_against_bnb(rng.standard_normal(n).astype(np.float32), block)


def test_every_tail_is_bitsandbytes():
    rng = np.random.default_rng(0)
    for n in range(1, 130):
        check_against_bnb(rng.standard_normal(n).astype(np.float32), 64)


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-30, 1e30, 0.1, float(np.float32(1.7e-38))])
def test_ties_and_their_neighbours_are_bitsandbytes(scale):
    near = [np.nextafter(MIDPOINTS, np.float32(side)) for side in (-2, 2)]
    x = np.concatenate([[1], MIDPOINTS, *near, CODEBOOK[:2]]).astype(np.float32)
    x = x * np.float32(scale)
    for n in (48, 64, 112):
        check_against_bnb(np.resize(x, n), 64)


def test_ties_go_to_the_lower_code():
    x = np.zeros(64, np.float32)
    x[0], x[1:16] = 1, MIDPOINTS
    assert codes(sent(x)[0])[1:16].tolist() == list(range(15))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(64),
        -np.zeros(64),
        np.zeros(5),
        np.full(64, 1e-38),
        np.full(7, 1e-40),
        np.linspace(-3.4e38, 3.4e38, 64),
        np.linspace(-3.4e38, 3.4e38, 7),
        np.r_[np.zeros(63), 1e-45, np.zeros(64)],
    ],
    ids=["zeros", "-0", "zero-tail", "floor", "tiny-tail", "huge", "huge-tail", "denormal"],
)
def test_odd_cases(x):
    check_against_bnb(x.astype(np.float32), 64)


@given(x=any_finite(), block=st.sampled_from([64, 128]))
@settings(max_examples=50, deadline=None)
def test_decoded_values_are_bitsandbytes(x, block):
    packed, absmax = sent(x, block)
    # bitsandbytes decodes a flattened, even number of values from the same bytes
    want = CODEBOOK[codes(packed)[: x.size]] * np.repeat(absmax, block)[: x.size]
    assert bits(there_and_back(nf4(block), x)) == bits(want)
    if x.size % block == 0:
        state = bnb.QuantState(
            absmax=torch.from_numpy(absmax),
            shape=torch.Size([x.size]),
            code=torch.from_numpy(CODEBOOK),
            blocksize=block,
            quant_type="nf4",
            dtype=torch.float32,
        )
        theirs = bnb.dequantize_4bit(torch.from_numpy(packed).reshape(-1, 1), state).numpy()
        assert bits(theirs.reshape(-1)) == bits(want)


# --- what NF4 promises ----------------------------------------------------------------------------


@given(x=any_finite(), block=st.sampled_from([16, 64, 4096]))
@settings(max_examples=150, deadline=None)
def test_idempotent_bit_for_bit(x, block):
    once = there_and_back(nf4(block), x)
    assert bits(there_and_back(nf4(block), once)) == bits(once)


def test_idempotent_for_every_denormal_scale_up_to_200_units():
    for units in range(1, 201):
        x = (np.arange(-units, units + 1) * 2.0**-149).astype(np.float32)
        for block in (x[:64], np.resize(x, 64)):
            once = there_and_back(nf4(), block)
            assert bits(there_and_back(nf4(), once)) == bits(once)


@given(x=any_finite(), block=st.sampled_from([16, 64]))
@settings(max_examples=150, deadline=None)
def test_the_largest_magnitude_of_a_block_is_exact(x, block):
    out = there_and_back(nf4(block), x)
    for start in range(0, x.size, block):
        values = np.abs(x[start : start + block])
        top = values.argmax()
        if values.size == block or values[top] >= FLOOR:
            assert out[start + top] == x[start + top]


# --- sections -----------------------------------------------------------------


def test_sections_hold_all_scales_then_all_codes():
    tree = {
        "a": np.array([0, 2, -1], np.float32),
        "b": np.array(-3, np.float32),
        "c": np.zeros((0, 2), np.float32),
        "d": np.r_[np.ones(64), 0.5].astype(np.float32),
    }
    wire, state = nf4().encode(tree, (), tree)
    assert state == ()
    assert np.frombuffer(wire.sections[0], "<f4").tolist() == [2, 3, 1, 0.5]
    # one byte a pair, the first value high; a missing second one is 7, the code of zero
    assert wire.sections[1] == bytes.fromhex("7f27" + "07" + "ff" * 32 + "f7")


def test_refuses_padding_that_no_sender_writes():
    tree = {"even": np.ones(2, np.float32), "odd": np.ones(3, np.float32)}
    wire, _ = nf4().encode(tree, (), tree)
    changed = wire.sections[1][:-1] + bytes([wire.sections[1][-1] ^ 1])
    with pytest.raises(WireError, match=r"'odd'.*padded"):
        nf4().decode(Wire((wire.sections[0], changed)), tree)


def test_reads_arrays_that_may_not_be_written():
    tree = {"a": np.ones((8, 8), np.float32)}
    tree["a"].flags.writeable = False
    wire, _ = nf4().encode(tree, (), tree)
    assert nf4().decode(wire, tree)["a"].tolist() == tree["a"].tolist()
