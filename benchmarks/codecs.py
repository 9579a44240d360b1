"""``python -m benchmarks.codecs [--run runs/NAME ...]``: speed, size and error of the codecs.

Two parts, about three minutes on two quiet cores, written to ``runs/bench-codecs/``:

- `speed`: MB/s, bits per parameter and error of every codec, as ratios to bitsandbytes, NVFlare
  (if it is installed: ``pip install --no-deps nvflare==2.9.0``) and memcpy: speed.csv;
- `rate_distortion`: bits against error on Gaussian values and on the changes of real runs (by
  default the newest usable run of each adapter, see `deltas`): rate_distortion.csv, .svg and .png.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

# Before numpy and torch: neither may start a pool of threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import deltas, rate_distortion, speed  # noqa: E402
from fl_app.codecs import Tree  # noqa: E402
from fl_app.codecs.parts import compiled  # noqa: E402
from fl_app.files import project_root  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write both parts."""
    parser = argparse.ArgumentParser(description="speed, bits and error of the codecs")
    parser.add_argument(
        "--run", type=Path, nargs="+", help="runs to take real changes of, instead of the newest"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sets and few repetitions, to see that it works"
    )
    parser.add_argument("--out", type=Path, default=project_root() / "runs" / "bench-codecs")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        real = dict(deltas.load(folder) for folder in args.run or [])
    except ValueError as error:
        parser.error(str(error))
    if args.run is None:
        real = newest()

    torch.set_num_threads(1)
    print(
        f"numpy {np.__version__}, torch {torch.__version__}, numba: {compiled.numba is not None},"
        f" {platform.machine()}, AVX-512: {'AVX512' in torch.backends.cpu.get_cpu_capability()}"
    )
    if args.quick:
        speed.run(args.out, count=20_000, tensors=4, seconds=0)
        rate_distortion.run(args.out, side=100, real=real)
    else:
        speed.run(args.out, count=9_437_184, tensors=144, seconds=0.2)
        rate_distortion.run(args.out, side=rate_distortion.GOALS_SIDE, real=real)
    print(f"\nspeed.csv and rate_distortion.csv, .svg, .png are in {args.out}")


def newest() -> dict[str, Tree]:
    """Return the changes of the newest usable runs; where there is none, print how to make one."""
    found = {}
    for folder in deltas.newest():
        try:
            title, change = deltas.load(folder)
            found[title] = change
        except ValueError as error:  # also a ConfigError, as of a run of another version
            print(f"left out: {error}")
    if not found:
        print(f"Gaussian values only, as runs/ holds no usable run: {deltas.COMMAND}")
    return found


if __name__ == "__main__":
    main()
