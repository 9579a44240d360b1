"""Speed: MB/s of every codec beside memcpy, bitsandbytes and NVFlare, as ratios in one run.

Everything runs in one process on one thread; each figure is the best of several repetitions after
a warm-up, in CPU seconds. Wall seconds would not do: on a busy machine a call of 1 ms sometimes
runs undisturbed, one of 0.3 s never does, and the ratio would favour the faster one. MB/s count
float32 input bytes (10**6). Ratios are those of the best times of one run, one set after the other,
so that a machine that slows down in between affects all senders; differences below 10 % mean
nothing.

The memory that a result is written to matters as much as the arithmetic. "Fresh pages" is memory
that the system has yet to clear: few page faults for numpy, which asks for huge pages, many for
torch, which does not; most of a decode's ratio to bitsandbytes comes from that. "Memory used
before" is what a process that runs for long gets from its allocator. Each set is measured with all
results in one of the two (see `allocate`); otherwise the order of the rows would decide. "memcpy"
copies into memory that stays, "memcpy into new memory" into a result.

Bits per parameter count the frame around a codec's sections; its time, the row "frame of nf4", is
not in those of the codecs.
"""

from __future__ import annotations

import csv
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import senders
from benchmarks.senders import Sender
from fl_app.codecs import (
    Codec,
    Tree,
    chain,
    delta,
    entropy,
    fp4,
    fp16,
    fp32,
    int8,
    kmeans,
    nf4,
    sign,
    ternary,
    top_k,
    uniform,
)
from fl_app.tree import scalars

BASE, COPY = "bitsandbytes nf4, flattened", "memcpy"
CODECS: dict[str, Codec] = {
    "nf4": nf4(),
    "nf4, fp16 scales": nf4(scale="fp16"),
    "nf4, int8 scales": nf4(scale="int8"),
    "delta, nf4": chain(delta(), nf4()),
    "fp4": fp4(),
    "int8": int8(),
    "fp32": fp32(),
    "fp16": fp16(),
    "uniform 0.092": uniform(error=0.092),
    "entropy(uniform 0.092)": entropy(uniform(error=0.092)),
    "entropy(uniform 0.5)": entropy(uniform(error=0.5)),
    "entropy(nf4)": entropy(nf4()),
    "sign": sign(),
    "ternary": ternary(),
    "kmeans 16": kmeans(16),
    "top_k 5 %, nf4": chain(top_k(0.05), nf4()),
    "entropy(top_k 5 %, nf4)": entropy(chain(top_k(0.05), nf4())),
}
OPTIONAL = {senders.nvflare: "nvflare==2.9.0", senders.constriction: "constriction==0.5.0"}
COLUMNS = (
    "set", "values", "sender", "encode_s", "encode_mb_s", "encode_x_bnb", "encode_x_memcpy",
    "decode_s", "decode_mb_s", "decode_x_bnb", "decode_x_memcpy", "bits_per_parameter",
    "relative_error", "codec",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What was measured of one sender: CPU seconds, bits per parameter, relative L2 error."""

    sender: Sender
    encode: float
    decode: float
    bits: float
    error: float


@dataclass(frozen=True)
class Set:
    """Tensors to measure, and whether results are in fresh pages."""

    title: str
    tree: Tree
    fresh: bool = False

    @property
    def megabytes(self) -> float:
        """Size in 10**6 bytes."""
        return sum(x.nbytes for x in self.tree.values()) / 1e6


def sets(count: int, tensors: int) -> list[Set]:
    """Return the sets to measure, of seeded Gaussian values.

    Parameters
    ----------
    count : int
        Values of the set of one tensor.
    tensors : int
        Tensors of the other sets.
    """
    rng, half = np.random.default_rng(0), tensors // 2

    def gaussian(*shapes: tuple[int, ...]) -> Tree:
        return {f"t{i}": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}

    large = gaussian((count,))
    title = f"one tensor of {count / 1e6:.1f} M values"
    return [
        Set(f"{title}, results in fresh pages", large, fresh=True),
        Set(f"{title}, results in memory used before", large),
        Set(f"LoRA-like: {half} of 8x768 and of 768x8", gaussian(*[(8, 768), (768, 8)] * half)),
        Set(
            f"7B-like: {half} of 16x4096 and of 4096x16", gaussian(*[(16, 4096), (4096, 16)] * half)
        ),
        Set(f"Fed-SB: {half} of 8x8", gaussian(*[(8, 8)] * half)),
    ]


def best(run: Callable[[], object], seconds: float) -> float:
    """Return the CPU seconds of the fastest call, after one that warms up.

    There are at least 7 measurements that take ``seconds`` together, or 3 if these take four times
    as long. A measurement is of many calls where one is short, as the clock of CPU time is coarse.
    """

    def measured(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            run()
        return time.process_time() - start

    run()
    calls = 1 + int(seconds / 40 / max(measured(1), 1e-6))
    times: list[float] = []
    while len(times) < 3 or sum(times) < (seconds if len(times) >= 7 else 4 * seconds):
        times.append(measured(calls))
    return max(min(times), 1e-9) / calls


def allocate(fresh: bool) -> None:
    """Let glibc give fresh pages to every result of 128 KiB or more, or reuse all memory.

    By default it does one or the other, depending on what was freed before and on the end of its
    heap, which makes a factor of seven in a plain copy. It gives free memory before it asks for
    more, so fresh pages have to come first. Without glibc this does nothing, and the titles of the
    sets are not true.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    mallopt(mmap_threshold, 128 * 1024)
    mallopt(mmap_max, 65536 if fresh else 0)
    mallopt(trim_threshold, 128 * 1024 if fresh else 2**31 - 1)


def measure(sender: Sender, tree: Tree, seconds: float) -> Row:
    """Return the times, the bits and the error of a sender."""
    message = sender.encode()
    return Row(
        sender,
        best(sender.encode, seconds),
        best(lambda: sender.decode(message), seconds),
        8 * sender.nbytes(message) / scalars(tree),
        senders.relative_error(tree, sender.arrays(sender.decode(message))),
    )


def others() -> list[Callable[[Tree], list[Sender]]]:
    """Return the factories of senders of other projects, without what is not installed."""
    found: list[Callable[[Tree], list[Sender]]] = [
        senders.copies,
        senders.bitsandbytes,
        senders.zstd,
    ]
    tiny = {"x": np.ones((1, 8), np.float32)}
    for factory, package in OPTIONAL.items():
        try:
            factory(tiny)
        except ImportError as error:
            print(f"left out, {error}; to compare: {senders.INSTALL.format(package)}")
        else:
            found.append(factory)
    return found


def ratios(rows: list[Row]) -> list[dict[str, float]]:
    """Return the ratios of each row to bitsandbytes and to memcpy."""
    base, copy = (next(r for r in rows if r.sender.name == name) for name in (BASE, COPY))
    return [
        {
            "encode_x_bnb": base.encode / row.encode,
            "encode_x_memcpy": copy.encode / row.encode,
            "decode_x_bnb": base.decode / row.decode,
            "decode_x_memcpy": copy.decode / row.decode,
        }
        for row in rows
    ]


def table(group: Set, rows: list[Row]) -> str:
    """Return one set's rows as a Markdown table that reads well as text, too."""
    megabytes = group.megabytes
    heads = ["encode MB/s", "x bnb", "% memcpy", "decode MB/s", "x bnb", "% memcpy",
             "bits/param", "rel. error"]  # fmt: skip
    lines = [
        f"\n{group.title} ({megabytes:.2f} MB of float32)\n",
        f"| {'':27} | " + " | ".join(f"{head:>11}" for head in heads) + " |",
        f"|:{'-' * 27}-|" + f"{'-' * 12}:|" * len(heads),
    ]
    for row, ratio in zip(rows, ratios(rows), strict=True):
        cells = [
            f"{megabytes / row.encode:.0f}",
            f"{ratio['encode_x_bnb']:.2f}",
            f"{100 * ratio['encode_x_memcpy']:.1f}",
            f"{megabytes / row.decode:.0f}",
            f"{ratio['decode_x_bnb']:.2f}",
            f"{100 * ratio['decode_x_memcpy']:.1f}",
            f"{row.bits:.3f}",
            f"{row.error:.4f}",
        ]
        lines.append(f"| {row.sender.name:27} | " + " | ".join(f"{c:>11}" for c in cells) + " |")
    return "\n".join(lines)


def run(out: Path, count: int, tensors: int, seconds: float) -> None:
    """Measure all sets, print their tables and write ``out``/speed.csv."""
    factories = others()
    with (out / "speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for group in sets(count, tensors):
            tree, megabytes = group.tree, group.megabytes
            allocate(group.fresh)
            candidates = [sender for factory in factories for sender in factory(tree)]
            candidates.append(senders.frame("frame of nf4", CODECS["nf4"], tree))
            candidates += [senders.ours(name, codec, tree) for name, codec in CODECS.items()]
            rows = [measure(sender, tree, seconds) for sender in candidates]
            print(table(group, rows), flush=True)
            for row, ratio in zip(rows, ratios(rows), strict=True):
                numbers = ratio | {
                    "encode_s": row.encode,
                    "encode_mb_s": megabytes / row.encode,
                    "decode_s": row.decode,
                    "decode_mb_s": megabytes / row.decode,
                    "bits_per_parameter": row.bits,
                    "relative_error": row.error,
                }
                writer.writerow(
                    {key: f"{value:.6g}" for key, value in numbers.items()}
                    | {
                        "set": group.title,
                        "values": scalars(tree),
                        "sender": row.sender.name,
                        "codec": json.dumps(row.sender.spec) if row.sender.spec else "",
                    }
                )
