"""fp4, int8 and the formats of scales: their promises, and one result from numba and numpy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import CodecError, Wire, WireError, fp4, int8, nf4
from fl_app.codecs.fp4 import CODEBOOK as E2M1
from fl_app.codecs.int8 import Integers, dequantize_numpy, quantize_numpy
from fl_app.codecs.nf4 import CODEBOOK as NORMAL
from fl_app.codecs.parts import codebook
from fl_app.codecs.parts.block_kernels import absmax, absmax_numpy
from fl_app.codecs.parts.codebook import Codebook
from fl_app.codecs.parts.scales import SCALES
from tests.codecs.sending import there_and_back
from tests.codecs.test_nf4 import any_finite, bits


def numpy_codebook(book: Codebook) -> SimpleNamespace:
    """The functions that take the place of a codebook's kernels where numba is missing."""
    return SimpleNamespace(
        quantize=lambda *args: codebook.quantize_numpy(*args, book.midpoints, book.zero),
        dequantize=lambda *args: codebook.dequantize_numpy(*args, book.table),
    )


NF4, FP4, INT8 = Codebook(NORMAL), Codebook(E2M1), Integers()
KERNELS = [
    (NF4, numpy_codebook(NF4)),
    (FP4, numpy_codebook(FP4)),
    (INT8, SimpleNamespace(quantize=quantize_numpy, dequantize=dequantize_numpy)),
]
BOUNDS = {nf4: 0.15191, fp4: 0.16667, int8: 0.003938}


def sent_scales(name: str, most: np.ndarray, counts=None) -> tuple[tuple[bytes, ...], np.ndarray]:
    counts = np.array([most.size]) if counts is None else np.array(counts)
    sections, rounded = SCALES[name].write(most.astype(np.float32), counts)
    assert bits(SCALES[name].read(sections, counts)) == bits(rounded)
    assert [len(s) for s in sections] == [s.nbytes for s in SCALES[name].streams(counts)]
    return sections, rounded


# --- all codecs, all formats of scales ------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("factory", BOUNDS, ids=["nf4", "fp4", "int8"])
@given(x=any_finite(), block=st.sampled_from([16, 64]))
@settings(max_examples=60, deadline=None)
def test_error_is_bounded_by_the_scale_that_is_sent(factory, scale, x, block):
    if scale == "fp16":
        x = np.clip(x, -65504, 65504)
    codec, tree, counts = factory(block, scale), {"x": x}, np.array([-(-x.size // block)])
    wire, _ = codec.encode(tree, (), tree)
    scales = SCALES[scale].read(wire.sections[:-1], counts)
    most = np.abs(np.resize(x, counts[0] * block))
    most[x.size :] = 0
    most = most.reshape(-1, block).max(axis=1)
    assert np.all(scales >= most)
    bound = BOUNDS[factory] * np.repeat(scales, block)[: x.size].astype(np.float64)
    out = codec.decode(wire, tree)["x"]
    # products in the denormal range are rounded to a multiple of 2**-149, twice in int8
    assert np.all(np.abs(out - x.astype(np.float64)) <= bound + 2.0**-148)
    assert not out[x == 0].any()


@pytest.mark.parametrize("factory", [fp4, int8])
@given(x=any_finite(), block=st.sampled_from([16, 64]))
@settings(max_examples=100, deadline=None)
def test_idempotent_and_exact_at_the_block_maximum(factory, x, block):
    x = np.where(np.abs(x) < 1e-30, np.float32(0), x)
    codec = factory(block)
    once = there_and_back(codec, x)
    assert bits(there_and_back(codec, once)) == bits(once)
    for start in range(0, x.size, block):
        top = start + np.abs(x[start : start + block]).argmax()
        assert once[top] == x[top]


@pytest.mark.parametrize(("symbols", "other"), KERNELS, ids=["nf4", "fp4", "int8"])
@given(x=any_finite(max_size=300), block=st.sampled_from([16, 32, 64, 128, 4096]), up=st.booleans())
@settings(max_examples=100, deadline=None)
def test_numba_and_numpy_give_the_same_bits(symbols, other, x, block, up):
    check_same_bits(symbols, other, x, block, up)


@pytest.mark.parametrize(("symbols", "other"), KERNELS, ids=["nf4", "fp4", "int8"])
@pytest.mark.parametrize("block", [16, 64, 65_536])
def test_numba_and_numpy_agree_beyond_one_chunk(symbols, other, block):
    x = np.random.default_rng(3).standard_normal(200_001).astype(np.float32)
    check_same_bits(symbols, other, x, block, up=False)


def check_same_bits(symbols, other, x, block, up):
    scales, again = (np.empty(-(-x.size // block), np.float32) for _ in range(2))
    absmax(x, scales, block)
    absmax_numpy(x, again, block)
    assert bits(scales) == bits(again)
    if up:
        scales = np.where(scales < 1e38, scales * np.float32(1.37), scales)
    out, out_2 = (np.zeros(-(-x.size * symbols.bits // 8), np.uint8) for _ in range(2))
    symbols.quantize(x, scales, out, block)
    other.quantize(x, scales, out_2, block)
    assert out.tolist() == out_2.tolist()
    assert max(unpacked(out, symbols.bits)) < symbols.count
    values, values_2 = np.empty_like(x), np.empty_like(x)
    symbols.dequantize(out, scales, values, np.array([x.size]), block)
    other.dequantize(out, scales, values_2, np.array([x.size]), block)
    assert bits(values) == bits(values_2)


@pytest.mark.parametrize(("symbols", "other"), KERNELS, ids=["nf4", "fp4", "int8"])
def test_many_tensors_are_decoded_like_one_at_a_time(symbols, other):
    rng = np.random.default_rng(0)
    sizes = np.array([0, 1, 130, 64, 70_001, 0, 63])
    nbytes, blocks = -(-sizes * symbols.bits // 8), -(-sizes // 64)
    sent = rng.integers(0, 15, nbytes.sum(), np.uint8)
    scales = rng.random(blocks.sum(), np.float32)
    want, p, a = [], 0, 0
    for n, size, count in zip(sizes, nbytes, blocks, strict=True):
        out = np.empty(n, np.float32)
        part = sent[p : p + size], scales[a : a + count]
        symbols.dequantize(*part, out, np.array([n]), 64)
        want += out.tolist()
        p, a = p + size, a + count
    for version in (symbols, other):
        out = np.empty(sizes.sum(), np.float32)
        version.dequantize(sent, scales, out, sizes, 64)
        assert out.tolist() == want


@pytest.mark.parametrize("kernel", [absmax, absmax_numpy])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 63, 64, 150, 199])
def test_scales_are_not_finite_where_a_value_is_not(kernel, bad, at):
    x, scales = np.ones(200, np.float32), np.empty(4, np.float32)
    x[at] = bad
    kernel(x, scales, 64)
    assert np.isfinite(scales).tolist() == [at // 64 != i for i in range(4)]


def unpacked(packed: np.ndarray, width: int) -> list[int]:
    if width == 8:
        return packed.tolist()
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1).tolist()


@pytest.mark.parametrize("factory", BOUNDS, ids=["nf4", "fp4", "int8"])
def test_a_tensor_does_not_depend_on_its_neighbours(factory):
    rng = np.random.default_rng(1)
    small = rng.standard_normal((3, 50)).astype(np.float32)
    tree = {"large": 1e6 * rng.standard_normal(700).astype(np.float32), "small": small}
    codec = factory(16, "int8")
    out = codec.decode(codec.encode(tree, (), tree)[0], tree)
    assert bits(out["small"]) == bits(there_and_back(codec, small))


@pytest.mark.parametrize("factory", BOUNDS, ids=["nf4", "fp4", "int8"])
def test_wrong_scale_formats_are_refused(factory):
    for scale in ("fp8", "", None, 8, ["fp32"]):
        with pytest.raises(ValueError, match="scale must be one of fp32, fp16, int8"):
            factory(64, scale)


# --- scales ---------------------------------------------------------------------------------------


@given(most=any_finite())
@settings(max_examples=200, deadline=None)
def test_fp16_scales_are_the_next_not_below(most):
    most = np.minimum(np.abs(most), 65504)
    (section,), rounded = sent_scales("fp16", most)
    sent = np.frombuffer(section, "<f2")
    assert np.all(rounded >= most)
    below = np.nextafter(sent, np.float16(-1)).astype(np.float32)
    assert np.all(below < most)


def test_fp16_scales_end_where_half_precision_does():
    edge = {"fits": np.full(3, -65504, np.float32), "beyond": np.ones(70, np.float32)}
    assert there_and_back(nf4(scale="fp16"), edge["fits"]).tolist() == [-65504] * 3
    for over in (np.nextafter(np.float32(65504), np.float32(np.inf)), 65520, 3e38):
        edge["beyond"][69] = over
        for factory in BOUNDS:
            with pytest.raises(CodecError, match=r"'beyond'.*beyond 65,504.*scale: fp32"):
                factory(scale="fp16").encode(edge, (), edge)


@given(most=any_finite(max_size=700))
@settings(max_examples=200, deadline=None)
def test_int8_scales_lie_less_than_a_step_above(most):
    most = np.abs(most)
    (top, code), rounded = sent_scales("int8", most)
    tops = np.repeat(np.frombuffer(top, "<f4"), 256)[: most.size].astype(np.float64)
    assert np.all(rounded >= most)
    # to float32's rounding, of a denormal too
    assert np.all(rounded <= (most + tops / 255) * (1 + 2.0**-24) + 2.0**-150)
    assert np.all(rounded[most == tops] == most[most == tops])
    assert np.array_equal(np.frombuffer(code, np.uint8) == 0, most == 0)


def test_int8_scales_are_grouped_tensor_by_tensor():
    counts = [0, 256, 1, 257, 0, 600]
    most = np.arange(1, sum(counts) + 1)
    (top, code), _ = sent_scales("int8", most, counts)
    assert np.frombuffer(top, "<f4").tolist() == [256, 257, 513, 514, 770, 1026, 1114]
    assert len(code) == sum(counts)
    assert sent_scales("int8", np.zeros(0), [0, 0])[0] == (b"", b"")
    assert sent_scales("int8", np.zeros(3))[0] == (bytes(4), bytes(3))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bad", [-1.0, -0.0, np.nan, np.inf])
@pytest.mark.parametrize("factory", BOUNDS, ids=["nf4", "fp4", "int8"])
def test_a_scale_that_no_sender_writes_is_refused(factory, scale, bad):
    tree = {"a": np.ones(65, np.float32)}
    codec = factory(scale=scale)
    wire, _ = codec.encode(tree, (), tree)
    value = np.array(bad, "<f2" if scale == "fp16" else "<f4").tobytes()
    section = wire.sections[0][: -len(value)] + value
    with pytest.raises(WireError, match="scale is negative"):
        codec.decode(Wire((section, *wire.sections[1:])), tree)


# --- symbols --------------------------------------------------------------------------------------


def test_int8_is_offset_by_127_and_rounds_halves_to_even():
    x = np.array([127, -127, 0, -0.0, 1, -1, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    wire, _ = int8().encode({"x": x}, (), {"x": x})
    want = [127, -127, 0, 0, 1, -1, 0, 2, 2, 0, -2]
    assert list(wire.sections[1]) == [127 + q for q in want]
    assert there_and_back(int8(), x).tolist() == want


def test_fp4_is_e2m1():
    grid = [0.5, 1, 1.5, 2, 3, 4, 6]
    x = np.array([*(-v for v in grid[::-1]), 0, *grid], np.float32)
    wire, _ = fp4().encode({"x": x}, (), {"x": x})
    assert unpacked(np.frombuffer(wire.sections[1], np.uint8), 4) == [*range(15), 7]
    assert np.allclose(there_and_back(fp4(), x), x, rtol=1e-7, atol=0)
    sign, exponent, mantissa = np.meshgrid([1, -1], range(4), range(2))
    e2m1 = sign * np.where(exponent, 2.0 ** (exponent - 1) * (1 + mantissa / 2), mantissa / 2)
    assert set(e2m1.ravel()) == {*x.tolist()}


def test_fp4_is_nearer_than_that_of_bitsandbytes_and_nf4_nearer_still():
    torch = pytest.importorskip("torch")
    bnb = pytest.importorskip("bitsandbytes.functional")
    x = np.random.default_rng(5).standard_normal(1 << 18).astype(np.float32)

    def error(out):
        return np.linalg.norm(out - x) / np.linalg.norm(x)

    packed, state = bnb.quantize_4bit(torch.from_numpy(x), blocksize=64, quant_type="fp4")
    theirs = bnb.dequantize_4bit(packed, state).numpy().reshape(-1)
    assert 0.120 < error(theirs) < 0.124
    assert 0.104 < error(there_and_back(fp4(), x)) < 0.108
    assert 0.091 < error(there_and_back(nf4(), x)) < 0.093
    assert error(there_and_back(int8(), x)) < 0.0061
    # the scales are the same, and so are the symbols with their codebook
    book = np.sort(bnb.get_4bit_type("fp4", device="cpu").numpy())
    like_theirs = Codebook(np.unique(book + np.float32(0)))
    codes, out = np.empty(x.size // 2, np.uint8), np.empty_like(x)
    like_theirs.quantize(x, state.absmax.numpy(), codes, 64)
    like_theirs.dequantize(codes, state.absmax.numpy(), out, np.array([x.size]), 64)
    assert abs(error(out) - error(theirs)) < 1e-4


def test_symbols_that_stand_for_nothing_are_refused():
    tree = {"x": np.ones(64, np.float32)}
    for codec, bad in [(fp4(), b"\xf0"), (fp4(), b"\x0f"), (int8(), b"\xff")]:
        wire, _ = codec.encode(tree, (), tree)
        for at in (0, len(wire.sections[1]) - 1):
            section = wire.sections[1][:at] + bad + wire.sections[1][at + 1 :]
            with pytest.raises(WireError, match="stands for nothing"):
                codec.decode(Wire((wire.sections[0], section)), tree)


def test_codebooks_ascend_from_minus_one_to_one():
    for values in (NORMAL, E2M1):
        assert np.all(np.diff(values) > 0)
        assert (values[0], values[7], values[-1]) == (-1, 0, 1)
        widest = np.diff(values.astype(np.float64)).max() / 2
        assert widest < (0.15191 if values is NORMAL else 0.16667)
