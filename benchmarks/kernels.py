"""``python -m benchmarks.kernels``: what each part that is written for speed is worth.

Every such part has a simple version with the same bits. Each codec that uses it encodes and decodes
with the part and with the simple version in its place, in turn, in one process on one thread. A
ratio is the median over such pairs of the simple version's CPU seconds over the part's; 1 means
that the part brings nothing. What brings less than 1.3 on the LoRA-like and on the 7B-like set of
`speed` is not worth its lines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

# Before numpy and torch: neither may start a pool of threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import speed  # noqa: E402
from fl_app.codecs.parts import block_kernels, blockwise, codebook, half, permute  # noqa: E402

MEASUREMENT = 0.05
"""CPU seconds of one measurement, about: short calls are repeated."""


@dataclass(frozen=True)
class Part:
    """One part written for speed.

    Attributes
    ----------
    codecs : tuple of str
        Keys of ``speed.CODECS``: codecs that use the part.
    simple : list of (module, str, Any)
        The names that the part is known by, and what takes their place.
    """

    codecs: tuple[str, ...]
    simple: list[tuple[Any, str, Any]]

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Put the simple version in the part's place."""
        with ExitStack() as stack:
            for module, name, simple in self.simple:
                stack.enter_context(mock.patch.object(module, name, simple))
            yield


def parts() -> dict[str, Part]:
    """Return every part by its title; the first needs a processor with AVX2."""
    delta, floats, int8 = (sys.modules[f"fl_app.codecs.{m}"] for m in ("delta", "floats", "int8"))
    found = {
        "look-up by vpermps": Part(
            ("nf4", "delta, nf4"), [(codebook, "_dequantize", _without_vpermps())]
        ),
        "kernels of 4-bit codebooks": Part(
            ("nf4",),
            [
                (codebook, "_quantize", codebook.quantize_numpy),
                (codebook, "_dequantize", codebook.dequantize_numpy),
            ],
        ),
        "kernel of the scales": Part(
            ("nf4", "int8"), [(blockwise, "absmax", block_kernels.absmax_numpy)]
        ),
        "kernels of int8": Part(
            ("int8",),
            [
                (int8, "_quantize", int8.quantize_numpy),
                (int8, "_dequantize", int8.dequantize_numpy),
            ],
        ),
        "kernels of half precision": Part(
            ("fp16",),
            [(floats, "to_half", half.to_half_numpy), (floats, "from_half", half.from_half_numpy)],
        ),
        "kernels of delta": Part(
            ("delta, nf4",),
            [(delta, "_minus", delta.minus_numpy), (delta, "_plus", delta.plus_numpy)],
        ),
        "results that start at a huge page": Part(
            ("nf4", "delta, nf4", "fp32", "fp16"),
            [(module, "new_values", _empty) for module in (blockwise, delta, floats)],
        ),
    }
    if not permute.AVAILABLE:
        del found["look-up by vpermps"]
    return found


def _empty(n: int) -> np.ndarray:
    return np.empty(n, np.float32)


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


def ratios(run: Callable[[], object], part: Part, pairs: int, seconds: float) -> list[float]:
    """Return the ratio of each pair: CPU seconds with the simple version over those with the part.

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
    with part.replaced():
        run()
    calls = 1 + int(seconds / measured(1))
    found = []
    for _ in range(pairs):
        own = measured(calls)
        with part.replaced():
            found.append(measured(calls) / own)
    return found


def lines(sets: list[speed.Set], pairs: int, seconds: float) -> Iterator[str]:
    """Yield a Markdown row for every part, codec and set."""
    yield "| part | codec | set | encode, x | decode, x |"
    yield "|---|---|---|---|---|"
    for title, part in parts().items():
        for name in part.codecs:
            for group in sets:
                speed.allocate(group.fresh)
                codec, tree = speed.CODECS[name], group.tree
                ref = {key: np.zeros_like(x) for key, x in tree.items()}
                wire, _ = codec.encode(tree, codec.init(ref), ref)
                runs = (
                    lambda: codec.encode(tree, codec.init(ref), ref),  # noqa: B023
                    lambda: codec.decode(wire, ref),  # noqa: B023
                )
                cells = [
                    f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})"
                    for r in (ratios(run, part, pairs, seconds) for run in runs)
                ]
                yield f"| {title} | {name} | {group.title} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description="what each part written for speed is worth")
    parser.add_argument("--pairs", type=int, default=11)
    arguments = parser.parse_args()
    for line in lines(speed.sets(9_437_184, 144), arguments.pairs, MEASUREMENT):
        print(line, flush=True)


if __name__ == "__main__":
    main()
