"""How fast, how small and how exact: ``python -m benchmarks.codecs``.

Everything runs in one process on one thread; each figure is the best of several repetitions after
a warm-up, in seconds of CPU. Not of the clock: on a busy machine a call of 0.3 s never gets a quiet
moment, one of 1 ms does, and the ratio would flatter the faster. MB/s count float32 input bytes
(10**6). bitsandbytes gets each tensor flattened, since it decodes other shapes wrongly on
some CPUs, and is timed without the copies that its output would need to become bytes.

"into new memory" is what a codec does: the page faults of its result are part of the time.
"kernel" is the arithmetic alone, into memory that is there already.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

# Before numpy and torch: neither may start a pool of threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: E402

from fl_app.codecs import Codec, Tree, chain, delta, fp16, fp32, nf4, nf4_kernels  # noqa: E402

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table; times in CPU seconds, error as relative L2."""

    name: str
    encode: float
    decode: float
    bits: float | None = None
    error: float | None = None


def best(run: Run, seconds: float) -> float:
    """CPU seconds of the fastest of at least 7 calls, after one that warms up."""
    run()
    times: list[float] = []
    while len(times) < 7 or sum(times) < seconds:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def trees(count: int) -> dict[str, Tree]:
    """The sets to measure, of Gaussian values (the same for everybody, seeded)."""
    shapes: dict[str, list[tuple[int, ...]]] = {
        f"one tensor of {count / 1e6:.1f} M": [(count,)],
        "LoRA-like, 144 of 8x768 and 768x8": [(8, 768), (768, 8)] * 72,
        "small, 72 of 8x8": [(8, 8)] * 72,
    }
    rng = np.random.default_rng(0)
    return {
        name: {f"t{i}": rng.standard_normal(shape, np.float32) for i, shape in enumerate(group)}
        for name, group in shapes.items()
    }


def relative_error(tree: Tree, out: Tree) -> float:
    """``|out - tree|_2 / |tree|_2`` over all values."""
    wrong = np.concatenate([(out[k] - x).reshape(-1) for k, x in tree.items()])
    return float(np.linalg.norm(wrong) / np.linalg.norm([np.linalg.norm(x) for x in tree.values()]))


def copy_rows(tree: Tree, seconds: float) -> list[Row]:
    """A plain copy of the tree's memory, which no codec can be expected to beat."""
    there = {name: x.copy() for name, x in tree.items()}

    def into_old() -> None:
        for name, x in tree.items():
            np.copyto(there[name], x)

    old = best(into_old, seconds)
    new = best(lambda: {name: x.copy() for name, x in tree.items()}, seconds)
    return [Row("memcpy", old, old), Row("memcpy into new memory", new, new)]


def bitsandbytes_row(tree: Tree, seconds: float) -> Row:
    """bitsandbytes' NF4, a call a tensor."""
    flat = [torch.from_numpy(x.reshape(-1)) for x in tree.values()]

    def encode() -> list:
        return [quantize_4bit(x, blocksize=64, quant_type="nf4") for x in flat]

    coded = encode()

    def decode() -> list[torch.Tensor]:
        return [dequantize_4bit(packed, state) for packed, state in coded]

    out = {k: x.numpy().reshape(tree[k].shape) for k, x in zip(tree, decode(), strict=True)}
    size = sum(packed.nbytes + state.absmax.nbytes for packed, state in coded)
    n = sum(x.size for x in tree.values())
    return Row(
        "bitsandbytes nf4, flattened",
        best(encode, seconds),
        best(decode, seconds),
        8 * size / n,
        relative_error(tree, out),
    )


def codec_row(name: str, codec: Codec, tree: Tree, seconds: float) -> Row:
    """A codec as the app calls it: Tree -> bytes -> Tree."""
    ref = {k: np.zeros_like(x) for k, x in tree.items()}
    wire, _ = codec.encode(tree, codec.init(ref), ref)
    return Row(
        name,
        best(lambda: codec.encode(tree, codec.init(ref), ref), seconds),
        best(lambda: codec.decode(wire, ref), seconds),
        8 * wire.nbytes / sum(x.size for x in tree.values()),
        relative_error(tree, codec.decode(wire, ref)),
    )


def kernel_row(name: str, encode: Callable, decode: Callable, tree: Tree, seconds: float) -> Row:
    """NF4's arithmetic alone, into memory that is there already."""
    jobs = []
    for x in tree.values():
        absmax = np.empty(-(-x.size // 64), np.float32)
        packed = np.empty(-(-x.size // 2), np.uint8)
        jobs.append((x.reshape(-1), absmax, packed, np.zeros(x.size, np.float32)))

    def encode_all() -> None:
        for x, absmax, packed, _ in jobs:
            encode(x, absmax, packed, 64)

    def decode_all() -> None:
        for _, absmax, packed, out in jobs:
            decode(packed, absmax, out, 64)

    return Row(name, best(encode_all, seconds), best(decode_all, seconds))


def print_table(title: str, tree: Tree, rows: list[Row]) -> None:
    """Print one set's rows with the ratios to bitsandbytes and to memcpy."""
    megabytes = sum(x.nbytes for x in tree.values()) / 1e6
    copy = next(r for r in rows if r.name == "memcpy")
    base = next(r for r in rows if r.name.startswith("bitsandbytes"))
    print(f"\n{title}: {megabytes:.2f} MB of float32")
    print(f"{'':30}|{'encode':^25}|{'decode':^25}|{'bits per':>9}|{'relative':>9}")
    heads = f"{'MB/s':>9}{'x bnb':>8}{'% copy':>8}|"
    print(f"{'':30}|{heads}{heads}{'value':>9}|{'L2 error':>9}")
    for row in rows:
        line = f"{row.name:30}|"
        for ours, theirs, top in [
            (row.encode, base.encode, copy.encode),
            (row.decode, base.decode, copy.decode),
        ]:
            line += f"{megabytes / ours:9.0f}{theirs / ours:8.2f}{100 * top / ours:8.1f}|"
        line += "         |" if row.bits is None else f"{row.bits:9.3f}|"
        print(line + ("" if row.error is None else f"{row.error:9.4f}"))


def main() -> None:
    """Measure and print all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=9_437_184, help="values of the large tensor")
    parser.add_argument("--seconds", type=float, default=0.5, help="least time per figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    k = nf4_kernels
    print(f"numpy {np.__version__}, torch {torch.__version__}, numba: {k.numba is not None}")
    for title, tree in trees(args.count).items():
        rows = [
            *copy_rows(tree, args.seconds),
            bitsandbytes_row(tree, args.seconds),
            codec_row("nf4", nf4(), tree, args.seconds),
            codec_row("delta, nf4", chain(delta(), nf4()), tree, args.seconds),
            codec_row("fp32", fp32(), tree, args.seconds),
            codec_row("fp16", fp16(), tree, args.seconds),
            kernel_row("nf4 kernel, numba", k.encode, k.decode, tree, args.seconds),
            kernel_row("nf4 kernel, numpy", k.encode_numpy, k.decode_numpy, tree, args.seconds),
        ]
        print_table(title, tree, rows)


if __name__ == "__main__":
    main()
