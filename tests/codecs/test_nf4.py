"""NF4: the bits of bitsandbytes, the same from numba and numpy, and what 4 bits promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs import Wire, WireError, nf4
from fl_app.codecs.parts import nf4_kernels
from fl_app.codecs.parts.nf4_kernels import CODEBOOK, FLOOR, SYMBOLS

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes.functional")

HALF_GAP = 0.15191
MIDPOINTS = SYMBOLS.midpoints


def bnb_encode(x: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
    packed, state = bnb.quantize_4bit(torch.from_numpy(x), blocksize=block, quant_type="nf4")
    return packed.numpy().reshape(-1), state.absmax.numpy()


def kernel_encode(x: np.ndarray, block: int = 64, kernel=nf4_kernels.encode):
    absmax, packed = np.empty(-(-x.size // block), np.float32), np.empty(-(-x.size // 2), np.uint8)
    assert kernel(x, absmax, packed, block)
    return packed, absmax


def kernel_decode(packed, absmax, n: int, block: int = 64, kernel=nf4_kernels.decode) -> np.ndarray:
    out = np.empty(n, np.float32)
    kernel(packed, absmax, out, block)
    return out


def codes(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def bits(x: np.ndarray) -> list[int]:
    return x.view(np.uint32).tolist()


def there_and_back(x: np.ndarray, block: int = 64) -> np.ndarray:
    return kernel_decode(*kernel_encode(x, block), x.size, block)


def differs_from_bnb(x: np.ndarray, block: int) -> np.ndarray:
    """Mask of the values in full blocks with 0 < absmax < 1e-38, the one documented exception."""
    mask = np.zeros(x.size + x.size % 2, bool)
    for start in range(0, x.size // block * block, block):
        most = np.abs(x[start : start + block]).max()
        mask[start : start + block] = 0 < most < FLOOR
    return mask


def check_against_bnb(x: np.ndarray, block: int) -> None:
    want_packed, want_absmax = bnb_encode(x, block)
    for kernel in (nf4_kernels.encode, nf4_kernels.encode_numpy):
        packed, absmax = kernel_encode(x, block, kernel)
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
    assert codes(kernel_encode(x)[0])[1:16].tolist() == list(range(15))


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
    packed, absmax = kernel_encode(x, block)
    # bitsandbytes decodes a flattened, even number of values from the same bytes
    want = CODEBOOK[codes(packed)[: x.size]] * np.repeat(absmax, block)[: x.size]
    for kernel in (nf4_kernels.decode, nf4_kernels.decode_numpy):
        assert bits(kernel_decode(packed, absmax, x.size, block, kernel)) == bits(want)
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


# --- two implementations, one result --------------------------------------------------------------


@given(x=any_finite(max_size=300), block=st.sampled_from([16, 32, 64, 128, 4096]))
@settings(max_examples=100, deadline=None)
def test_numba_and_numpy_give_the_same_bits(x, block):
    packed, absmax = kernel_encode(x, block)
    packed_2, absmax_2 = kernel_encode(x, block, nf4_kernels.encode_numpy)
    assert packed.tolist() == packed_2.tolist()
    assert bits(absmax) == bits(absmax_2)
    out = kernel_decode(packed, absmax, x.size, block)
    assert bits(out) == bits(kernel_decode(packed, absmax, x.size, block, nf4_kernels.decode_numpy))


def test_numba_and_numpy_agree_beyond_one_chunk():
    x = np.random.default_rng(3).standard_normal(200_001).astype(np.float32)
    for block in (16, 64, 65_536):
        packed, absmax = kernel_encode(x, block)
        packed_2, absmax_2 = kernel_encode(x, block, nf4_kernels.encode_numpy)
        assert np.array_equal(packed, packed_2)
        assert np.array_equal(absmax, absmax_2)
        out = kernel_decode(packed, absmax, x.size, block)
        out_2 = kernel_decode(packed, absmax, x.size, block, nf4_kernels.decode_numpy)
        assert np.array_equal(out, out_2)


@pytest.mark.parametrize("kernel", [nf4_kernels.encode, nf4_kernels.encode_numpy])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 63, 64, 150, 199])
def test_both_see_nan_and_inf_anywhere(kernel, bad, at):
    x = np.ones(200, np.float32)
    x[at] = bad
    with np.errstate(invalid="raise"):
        assert not kernel(x, np.empty(4, np.float32), np.empty(100, np.uint8), 64)


# --- what NF4 promises ----------------------------------------------------------------------------


@given(x=any_finite(), block=st.sampled_from([16, 64, 4096]))
@settings(max_examples=150, deadline=None)
def test_idempotent_bit_for_bit(x, block):
    once = there_and_back(x, block)
    assert bits(there_and_back(once, block)) == bits(once)


def test_idempotent_for_every_denormal_scale_up_to_200_units():
    for units in range(1, 201):
        x = (np.arange(-units, units + 1) * 2.0**-149).astype(np.float32)
        for block in (x[:64], np.resize(x, 64)):
            once = there_and_back(block)
            assert bits(there_and_back(once)) == bits(once)


@given(x=any_finite(), block=st.sampled_from([16, 64]))
@settings(max_examples=150, deadline=None)
def test_error_bound_and_exact_block_maximum(x, block):
    out = there_and_back(x, block)
    for start in range(0, x.size, block):
        a, b = x[start : start + block].astype(np.float64), out[start : start + block]
        most = np.abs(a).max()
        short = a.size < block
        scale = max(most, FLOOR) if short else most
        # a product in the denormal range is rounded to a multiple of 2**-149, by half at most
        assert np.all(np.abs(b - a) <= HALF_GAP * scale + 2.0**-150)
        if most >= FLOOR or not short:
            top = np.abs(a).argmax()
            assert b[top] == a[top]
        if most == 0:
            assert not b.any()


def test_gaussian_error():
    x = np.random.default_rng(5).standard_normal(1_000_000).astype(np.float32)
    error = np.linalg.norm(there_and_back(x) - x) / np.linalg.norm(x)
    assert 0.091 < error < 0.095


# --- the codec around the kernels -----------------------------------------------------------------


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


@pytest.mark.parametrize("scale", [-1.0, -0.0, np.nan, np.inf, -np.inf, -np.nan])
def test_refuses_a_scale_that_no_sender_writes(scale):
    tree = {"a": np.ones(65, np.float32)}
    wire, _ = nf4().encode(tree, (), tree)
    scales = np.array([1, scale], "<f4").tobytes()
    with pytest.raises(WireError, match="scale"):
        nf4().decode(Wire((scales, wire.sections[1])), tree)


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
