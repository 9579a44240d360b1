"""``python -m benchmarks.sweep``: the overhead of a run, alone and in a sweep.

The same short run is done several times: as the jobs of a sweep, one after the other on one
SuperLink, and each on a SuperLink of its own, as ``python -m fl_app.run`` does. The overhead of a
run is its wall time less the seconds of training, evaluation and codecs in its summary.json.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from fl_app.run import submit
from fl_app.runs.read import read
from fl_app.simulation.superlink import superlinks

WORK = ("train", "evaluate", "encode", "decode")


def overhead(
    folder: Path, environment: dict[str, str], began: float, wait: bool
) -> tuple[float, float]:
    """Do one run; return the seconds of its work, and all other seconds since ``began``."""
    words = f"rounds=1 local_epochs=1 output.dir={folder.parent} output.name={folder.name}"
    with Path(f"{folder}.log").open("w") as log:
        if submit(words, environment, log, wait) != 0:
            raise RuntimeError(f"the run failed: see {folder}.log")
    work = sum(read(folder).summary["seconds"][phase] for phase in WORK)
    return work, time.perf_counter() - began - work


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="seconds of a run that are not its work")
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found: dict[str, list[tuple[float, float]]] = {"in a sweep": [], "alone": []}
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        with superlinks() as (environment,):
            start = time.perf_counter() - began
            for i in range(runs):
                found["in a sweep"].append(
                    overhead(Path(name, f"sweep-{i}"), environment, time.perf_counter(), wait=False)
                )
        for i in range(runs):
            began = time.perf_counter()
            with superlinks(actors=1) as (environment,):
                work, _ = overhead(Path(name, f"alone-{i}"), environment, began, wait=True)
            found["alone"].append((work, time.perf_counter() - began - work))
    print("| runs | work, s | overhead, s | of it the first, s |")
    print("|---|---|---|---|")
    for where, rows in found.items():
        later = [seconds for _, seconds in rows[1:]] or [rows[0][1]]
        work = statistics.mean(work for work, _ in rows)
        print(f"| {where} | {work:.1f} | {statistics.mean(later):.1f} | {rows[0][1]:.1f} |")
    print(f"starting a SuperLink: {start:.1f} s")


if __name__ == "__main__":
    main()
