"""``python -m benchmarks.kernels``: how much faster the compiled kernels make the codecs.

Every kernel has a simple version with the same bits: numpy's or, of the look-up by ``vpermps``, a
plain loop. Each codec that uses a kernel encodes and decodes with it and with the simple version in
its place, in turn, in one process on one thread. A ratio is CPU seconds with the simple version
over those with the kernel: the median over several pairs, with the least and the largest. A kernel
that brings less than 1.3 on the LoRA-like and on the 7B-like set of `speed` should go.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

# Before numpy and torch: neither may start a pool of threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import speed  # noqa: E402
from fl_app.codecs.parts import block_kernels, blockwise, codebook, half, permute  # noqa: E402
from fl_app.tree import zeros  # noqa: E402

MEASUREMENT = 0.05
"""CPU seconds of one measurement, about: short calls are repeated."""


@dataclass(frozen=True)
class Kernels:
    """Kernels that belong together, and what can take their place.

    Attributes
    ----------
    codecs : tuple of str
        Keys of ``speed.CODECS``: codecs that use them.
    simple : list of (module, str, Any)
        The names of the kernels, and the simple version of each.
    """

    codecs: tuple[str, ...]
    simple: list[tuple[Any, str, Any]]

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Let the simple versions take the place of the kernels."""
        with ExitStack() as stack:
            for module, name, simple in self.simple:
                stack.enter_context(mock.patch.object(module, name, simple))
            yield


def kernels() -> dict[str, Kernels]:
    """Return all kernels by their title; the first only on a processor with AVX2."""
    delta, floats, int8 = (sys.modules[f"fl_app.codecs.{m}"] for m in ("delta", "floats", "int8"))
    found = {
        "look-up by vpermps": Kernels(
            ("nf4", "delta, nf4"), [(codebook, "_dequantize", _without_vpermps())]
        ),
        "4-bit codebooks": Kernels(
            ("nf4",),
            [
                (codebook, "_quantize", codebook.quantize_numpy),
                (codebook, "_dequantize", codebook.dequantize_numpy),
            ],
        ),
        "largest magnitudes of blocks": Kernels(
            ("nf4", "int8"), [(blockwise, "absmax", block_kernels.absmax_numpy)]
        ),
        "int8": Kernels(
            ("int8",),
            [
                (int8, "_quantize", int8.quantize_numpy),
                (int8, "_dequantize", int8.dequantize_numpy),
            ],
        ),
        "half precision": Kernels(
            ("fp16",),
            [(floats, "to_half", half.to_half_numpy), (floats, "from_half", half.from_half_numpy)],
        ),
        "delta": Kernels(
            ("delta, nf4",),
            [(delta, "_minus", delta.minus_numpy), (delta, "_plus", delta.plus_numpy)],
        ),
    }
    if not permute.AVAILABLE:
        del found["look-up by vpermps"]
    return found


def _without_vpermps() -> Callable[..., None]:
    """Compile the kernel that decodes codebooks with its look-up as a plain loop."""
    kernel = numba.njit(codebook._dequantize.py_func, nogil=True, error_model="numpy")  # type: ignore[attr-defined, call-overload]
    codec = speed.CODECS["nf4"]
    tree = {"x": np.zeros(64, np.float32)}
    wire, _ = codec.encode(tree, (), tree)
    with (
        mock.patch.object(codebook, "_tile", codebook._plain_tile),
        mock.patch.object(codebook, "_dequantize", kernel),
    ):
        codec.decode(wire, tree)  # compiles with the names as they are here
    return kernel


def ratios(run: Callable[[], object], kernel: Kernels, pairs: int, seconds: float) -> list[float]:
    """Return the ratio of each pair: CPU seconds of the simple version over those of the kernel.

    Parameters
    ----------
    pairs : int
        Measurements of each version, in turn.
    seconds : float
        CPU seconds of one measurement, about.
    """

    def measured(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            run()
        return max(time.process_time() - start, 1e-9)

    run()
    with kernel.replaced():
        run()
    calls = 1 + int(seconds / measured(1))
    found = []
    for _ in range(pairs):
        own = measured(calls)
        with kernel.replaced():
            found.append(measured(calls) / own)
    return found


def lines(sets: list[speed.Set], pairs: int, seconds: float) -> Iterator[str]:
    """Yield a Markdown row for every kernel, codec and set."""
    yield "| kernel | codec | set | encode, x | decode, x |"
    yield "|---|---|---|---|---|"
    for title, kernel in kernels().items():
        for name, group in itertools.product(kernel.codecs, sets):
            speed.allocate(group.fresh)
            codec, ref = speed.CODECS[name], zeros(group.tree)
            encode = partial(codec.encode, group.tree, codec.init(ref), ref)
            decode = partial(codec.decode, encode()[0], ref)
            cells = [
                f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
                for found in (ratios(run, kernel, pairs, seconds) for run in (encode, decode))
            ]
            yield f"| {title} | {name} | {group.title} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description="how much faster kernels make the codecs")
    parser.add_argument("--pairs", type=int, default=11)
    arguments = parser.parse_args()
    for line in lines(speed.sets(9_437_184, 144), arguments.pairs, MEASUREMENT):
        print(line, flush=True)


if __name__ == "__main__":
    main()
