"""Every stream coder: lossless, deterministic, short, and no hostile byte does harm."""

from __future__ import annotations

import hashlib
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.codecs import WireError
from fl_app.codecs.streams import bits, frequencies, golomb, interleaved, rans, smallest, zstd
from fl_app.codecs.streams.bits import BitReader, BitWriter
from fl_app.codecs.streams.frequencies import ONE, PRECISION, Table
from fl_app.codecs.streams.histogram import histogram

WIDTHS = [1, 2, 4, 8]
DIGEST = "8279c081e4ad62aeb8bdaf31b9ce0f6a329aea005923c93d9be7ff0c910dc355"


def counts_of(symbols, width=8) -> list[int]:
    return np.bincount(symbols, minlength=2**width).tolist()


def gaussian(n: int, spread: float, salt: int = 0) -> np.ndarray:
    level = np.rint(np.random.default_rng(salt).standard_normal(n) * spread).astype(int)
    return np.where(level < 0, -2 * level - 1, 2 * level).clip(0, 255).astype(np.uint8)


@st.composite
def streams(draw, max_size=600):
    """Symbols with their width: constant, sparse, skewed, repeating or any at all."""
    width = draw(st.sampled_from(WIDTHS))
    n = draw(st.integers(0, max_size * 8 // width))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["constant", "sparse", "skewed", "repeating", "any"]))
    top = 2**width - 1
    if kind == "constant":
        symbols = np.full(n, draw(st.integers(0, top)))
    elif kind == "sparse":
        symbols = np.where(rng.random(n) < 0.03, rng.integers(0, top + 1, n), top // 2)
    elif kind == "skewed":
        symbols = np.minimum(rng.geometric(draw(st.floats(0.01, 0.99)), n) - 1, top)
    elif kind == "repeating":
        symbols = np.resize(rng.integers(0, top + 1, 5), n)
    else:
        symbols = rng.integers(0, top + 1, n)
    return symbols.astype(np.uint8), width


# Streams for which each coder is the shortest.
CHOSEN = {
    "raw": (smallest.RAW, np.random.default_rng(0).integers(0, 256, 300).astype(np.uint8), 8),
    "constant": (smallest.CONSTANT, np.full(500, 3, np.uint8), 4),
    "rans": (smallest.RANS, gaussian(2000, 1.2), 8),
    "golomb": (smallest.GOLOMB, (np.arange(800) % 97 == 13).astype(np.uint8), 1),
    "golomb-values": (smallest.GOLOMB, np.where(np.arange(800) % 89 == 7, gaussian(800, 9), 4), 8),
    "planes": (
        smallest.PLANES,
        np.frombuffer(np.random.default_rng(0).standard_normal(300).astype("<f4").tobytes(), "u1"),
        8,
    ),
    "interleaved": (smallest.INTERLEAVED, gaussian(30_001, 9), 8),
    "zstd": (smallest.ZSTD, np.resize(np.random.default_rng(1).permutation(256), 999), 8),
}
CHOSEN = {name: (tag, s.astype(np.uint8), width) for name, (tag, s, width) in CHOSEN.items()}


@pytest.fixture(params=list(CHOSEN), name="chosen")
def _chosen(request):
    return CHOSEN[request.param]


# --- lossless and short ---------------------------------------------------------------------------


@given(stream=streams())
@settings(max_examples=300, deadline=None)
def test_what_comes_out_is_what_went_in(stream):
    symbols, width = stream
    coded = smallest.encode(symbols, width)
    assert coded == smallest.encode(symbols.copy(), width)
    assert len(coded) <= len(bits.pack(symbols, width)) + bool(symbols.size)
    out = smallest.decode(coded, symbols.size, width)
    assert out.dtype == np.uint8
    assert np.array_equal(out, symbols)


def test_each_coder_is_chosen_where_it_is_shortest(chosen):
    tag, symbols, width = chosen
    coded = smallest.encode(symbols, width)
    assert coded[0] == tag
    assert np.array_equal(smallest.decode(coded, symbols.size, width), symbols)


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.binary(max_size=40))
def test_packing(width, data):
    symbols = bits.unpack(data, width)
    assert symbols.size == 8 * len(data) // width
    assert bits.pack(symbols, width) == data
    text = "".join(f"{s:0{width}b}" for s in symbols)
    assert text == "".join(f"{b:08b}" for b in data)


@given(st.lists(st.integers(1, 2**20)), st.binary(max_size=3))
def test_gamma_code_and_what_follows(values, tail):
    writer = BitWriter()
    for v in values:
        writer.gamma(v)
        writer.bits(v & 7, 3)
    reader = BitReader(writer.tobytes() + tail)
    assert [(reader.gamma(21), reader.bits(3)) for _ in values] == [(v, v & 7) for v in values]
    assert reader.rest() == tail


@given(st.integers(0, 2**40), st.binary(max_size=3))
def test_varint(value, tail):
    data = bits.varint(value)
    assert bits.read_varint(data + tail, 2**40) == (value, tail)
    for bad in (data[:-1], data[:-1] + bytes([data[-1] | 128]) + b"\0"):
        with pytest.raises(WireError, match="truncated or longer"):
            bits.read_varint(bad, 2**50)
    if value:
        with pytest.raises(WireError, match="at most"):
            bits.read_varint(data, value - 1)


@pytest.mark.parametrize("spread", [0.4, 3.0, 30.0])
def test_interleaved_coders_take_little_more_than_one(spread):
    symbols = gaussian(100_000, spread)
    counts = histogram(symbols, 8)
    one = rans.encode(symbols, frequencies.best(counts))
    eight = interleaved.encode(symbols, interleaved.best(counts))
    assert abs(len(eight) - interleaved.size(interleaved.best(counts), counts)) <= 40
    assert len(eight) <= 1.002 * len(one) + 32
    for count in (0, 1, 7, 8, 9, 1001):
        part = symbols[:count]
        coded = interleaved.encode(part, interleaved.best(counts))
        assert np.array_equal(interleaved.decode(coded, count, 256), part)


def test_the_bytes_of_interleaved_coders_stay():
    index = np.arange(50_000, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) % np.uint64(2**32)) >> np.uint64(12)
    symbols = (20 - np.frexp(mixed.astype(float) + 1)[1]).clip(0, 255).astype(np.uint8)
    table = interleaved.best(histogram(symbols, 8))
    assert hashlib.sha256(interleaved.encode(symbols, table)).hexdigest() == DIGEST


@given(stream=streams())
def test_histogram(stream):
    symbols, width = stream
    assert histogram(symbols, width).tolist() == counts_of(symbols, width)


# --- frequency tables -----------------------------------------------------------------------------

counts = st.lists(st.integers(0, 2000), min_size=2, max_size=256).filter(
    lambda c: sum(n > 0 for n in c) > 1
)


@given(counts)
@settings(max_examples=100, deadline=None)
def test_a_table_sums_up_and_is_read_back(given_counts):
    table = frequencies.best(given_counts)
    assert sum(table.frequencies) == 1 << table.precision <= 1 << PRECISION
    assert table.frequencies[-1]
    padded = [*table.frequencies, *[0] * len(given_counts)]
    assert all((n > 0) == (f > 0) for n, f in zip(given_counts, padded, strict=False))
    writer = BitWriter()
    frequencies.write(table, writer)
    assert frequencies.read(BitReader(writer.tobytes()), len(given_counts)) == table
    with pytest.raises(WireError):
        frequencies.read(BitReader(writer.tobytes()), len(table.frequencies) - 1)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5))
@settings(deadline=None)
def test_no_other_rounding_of_the_counts_is_much_better(given_counts):
    total = 16

    def cost(freq):
        return Table(4, tuple(freq)).cost(given_counts)

    freq = list(frequencies.apportion(given_counts, total))
    for i in range(len(freq)):
        for j in range(len(freq)):
            if i != j and freq[j] > 1:
                moved = list(freq)
                moved[i] += 1
                moved[j] -= 1
                assert cost(freq) <= cost(moved) + ONE * sum(given_counts) // 50


def test_no_logarithm_is_near_a_half_so_all_machines_round_alike():
    for f in range(2, (1 << PRECISION) + 1):
        part = math.log2(f) * ONE % 1
        assert abs(part - 0.5) > 1e-6
    assert frequencies.LOG2[1 << PRECISION] == PRECISION * ONE


def test_a_table_is_refused():
    def table(*codes):
        writer = BitWriter()
        for value, width in codes:
            writer.gamma(value) if width is None else writer.bits(value, width)
        return BitReader(writer.tobytes() + b"\xff" * 8)

    with pytest.raises(WireError, match="16 bits, at most 14"):
        frequencies.read(table((15, 4)), 256)
    # precision 1, width 1 + 1: a single symbol
    with pytest.raises(WireError, match="impossible width"):
        frequencies.read(table((0, 4), (4, None)), 256)
    with pytest.raises(WireError, match="impossible width"):
        frequencies.read(table((0, 4), (5, None)), 256)


# --- rans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "spread"), [(60_000, 0.5), (60_000, 3.3), (300, 1.2), (20, 1.0)])
def test_rans_takes_the_entropy_and_a_small_table(n, spread):
    symbols = gaussian(n, spread)
    given_counts = counts_of(symbols)
    table = frequencies.best(given_counts)
    entropy = sum(c * math.log2(n / c) for c in given_counts if c) / 8
    used = sum(c > 0 for c in given_counts)
    coded = rans.encode(symbols, table)
    assert len(coded) <= 1.001 * entropy + 1.6 * used + 4
    assert abs(len(coded) - rans.size(table, given_counts)) <= 1 + n / 10_000


def test_rans_is_the_number_that_the_symbols_are():
    """Without renormalization the bytes are one integer: Duda's recursion, exactly."""
    table = Table(2, (3, 1))
    symbols = np.array([0, 1, 0, 0, 1, 0, 0], np.uint8)
    state, start = 1 << 16, (0, 3)
    for s in symbols[::-1].tolist():
        f = table.frequencies[s]
        state = state // f * 4 + start[s] + state % f
    writer = BitWriter()
    frequencies.write(table, writer)
    number = state.to_bytes(-(-state.bit_length() // 8), "big")
    assert rans.encode(np.resize(symbols, 7), table) == writer.tobytes() + number


@given(stream=streams(max_size=100))
@settings(max_examples=50, deadline=None)
def test_the_same_bytes_without_numba(stream):
    symbols, width = stream
    with pytest.MonkeyPatch.context() as patch:
        coded = smallest.encode(symbols, width)
        for module, name in ((rans, "_encode"), (rans, "_decode"), (golomb, "_decode")):
            kernel = getattr(module, name)
            patch.setattr(module, name, getattr(kernel, "py_func", kernel))
        assert smallest.encode(symbols, width) == coded
        assert np.array_equal(smallest.decode(coded, symbols.size, width), symbols)


@given(st.binary(max_size=60), st.integers(1, 40), st.sampled_from(WIDTHS))
@settings(max_examples=500, deadline=None)
def test_rans_reads_only_what_it_would_write(tail, count, width):
    """One encoding per stream and table: whatever is read back gives the same bytes."""
    table = Table(3, (5, 3))
    writer = BitWriter()
    frequencies.write(table, writer)
    data = writer.tobytes() + tail
    try:
        symbols = rans.decode(data, count, 2**width)
    except WireError:
        return
    again = rans.encode(np.resize(symbols, count), table)
    assert again is None or again == data


# --- hostile --------------------------------------------------------------------------------------


def refused_or_symbols(data: bytes, count: int, width: int) -> np.ndarray | None:
    try:
        symbols = smallest.decode(data, count, width)
    except WireError:
        return None
    assert symbols.dtype == np.uint8
    assert symbols.size == count
    assert not count or symbols.max() < 2**width
    return symbols


def test_truncations_extensions_and_other_lengths_are_refused(chosen):
    _, symbols, width = chosen
    coded = smallest.encode(symbols, width)
    for end in [*range(min(len(coded), 1000)), *range(max(0, len(coded) - 100), len(coded))]:
        assert refused_or_symbols(coded[:end], symbols.size, width) is None
    for more in (b"\0", b"\xff", b"\x01\x02", coded):
        assert refused_or_symbols(coded + more, symbols.size, width) is None


def test_every_flipped_bit_is_refused_or_gives_symbols(chosen):
    _, symbols, width = chosen
    coded = smallest.encode(symbols, width)
    for i in range(8 * min(len(coded), 400)):
        changed = bytearray(coded)
        changed[i // 8] ^= 1 << i % 8
        out = refused_or_symbols(bytes(changed), symbols.size, width)
        if out is not None and coded[0] != smallest.ZSTD:
            assert not np.array_equal(out, symbols)


@given(st.integers(0, 7), st.binary(max_size=80), st.integers(0, 300), st.sampled_from(WIDTHS))
@settings(max_examples=2000, deadline=None)
def test_random_bytes_are_refused_or_give_symbols(tag, body, count, width):
    refused_or_symbols(bytes([tag]) + body, count, width)


@pytest.mark.parametrize("tag", [*range(8), 255])
def test_a_few_bytes_take_no_memory(tag):
    count = 100_000
    rng = np.random.default_rng(tag)
    refused_or_symbols(bytes([tag % 7]) + rng.bytes(30), count, 8)  # imports and compilation
    tracemalloc.start()
    for body in (b"", b"\xff" * 40, b"\0" * 40, rng.bytes(40)):
        refused_or_symbols(bytes([tag]) + body, count, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * count + 200_000


def test_a_zstd_frame_may_not_ask_for_more_than_its_content():
    import zstandard

    def frame(raw, **options):
        parameters = zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, **options
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)

    with pytest.raises(WireError, match="size, checksum"):
        zstd.decode(frame(b"abc" * 99, write_content_size=True), 297)
    with pytest.raises(WireError, match="size, checksum"):
        zstd.decode(frame(b"abc" * 99, write_content_size=False, write_checksum=True), 297)
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, window_log=27, write_content_size=False
        )
    ).compressobj()
    data = wide.compress(b"abc" * 99) + wide.flush()
    with pytest.raises(WireError, match="window of 134217728"):
        zstd.decode(data, 297)
    # 131,072 bytes out of a few, where 100 are asked for
    with pytest.raises(WireError, match="zstd"):
        zstd.decode(zstd.encode(bytes(2**17)), 100)


def test_golomb_takes_the_best_parameter():
    for density in (0.001, 0.01, 0.1):
        mask = (np.random.default_rng(0).random(100_000) < density).astype(np.uint8)
        coded, others = golomb.encode(mask, 0, 1)
        p = Fraction(int(others.size), mask.size)
        entropy = -float(p) * math.log2(p) - float(1 - p) * math.log2(1 - p)
        assert len(coded) <= 1.04 * mask.size * entropy / 8 + 5
