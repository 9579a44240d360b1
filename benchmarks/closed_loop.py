"""``python -m benchmarks.closed_loop [--seeds 0 1 2] [CODEC ...]``: codecs in training.

What a codec's error does to a model shows only in the loop, where the next client trains on what
was decoded. Every codec is run through `flwr run` with one client per round (experiment
``nf4_single``) and with the average of two (``fedavg_nf4``), and the message bytes until
``target.value`` are counted. Runs that are already in ``runs/bench-*`` are not repeated.
"""

import argparse
import statistics

from benchmarks.experiments import first_met, read, run_missing, spread
from fl_app.config import compose
from fl_app.console import size

BASES = {"single_client": "nf4_single", "fedavg": "fedavg_nf4"}
CODECS = (
    "nf4", "nf4_dq", "int8", "uniform_entropy", "uniform_entropy_0.3", "sign", "ternary",
    "top_k",
)  # fmt: skip


def overrides_of(strategy: str, codec: str) -> str:
    """Return the overrides of a run; ``CODEC_0.3`` is a codec with another error."""
    base = f"experiment={BASES[strategy]}"
    name, _, error = codec.rpartition("_")
    if not error.startswith("0."):
        return f"{base} codec={codec}"
    return f"{base} codec={name} codec.error={error}"


def row(strategy: str, codec: str, seeds: list[int], target: float) -> str:
    """Return one line of the table."""
    found = [read(label(strategy, codec), seed) for seed in seeds]
    met = [first_met(run, target) for run in found]
    bytes_met = [run["sent"][r] for run, r in zip(found, met, strict=True) if r is not None]
    needed = size(statistics.mean(bytes_met)) if len(bytes_met) == len(found) else "missed"
    bits = statistics.mean(run["summary"]["bits_per_scalar_up"] for run in found)
    return (
        f"| {strategy} | {codec} | {spread([run['summary']['final']['anls'] for run in found])} "
        f"| {bits:.2f} | {size(statistics.mean(max(run['sent'].values()) for run in found))} "
        f"| {', '.join('missed' if r is None else str(r) for r in met)} | {needed} |"
    )


def label(strategy: str, codec: str) -> str:
    """Return the label that names the run's folder."""
    return f"loop-{strategy}-{codec}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description="run every codec in training, print a table")
    parser.add_argument("codecs", nargs="*", default=list(CODECS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", choices=list(BASES), default=list(BASES))
    arguments = parser.parse_args()
    pairs = [(s, c) for s in arguments.strategies for c in arguments.codecs]
    run_missing({label(*pair): overrides_of(*pair) for pair in pairs}, arguments.seeds)
    target = compose("").target.value
    print(
        "| strategy | codec | ANLS | bits per scalar up | message bytes, whole run "
        f"| rounds to {target} | message bytes to {target} |\n|---|---|---|---|---|---|---|"
    )
    for pair in pairs:
        print(row(*pair, arguments.seeds, target))


if __name__ == "__main__":
    main()
