"""``python -m benchmarks.forgetting [--seeds 0 1 2]``: what adapters learn, forget, and send.

``experiment=forgetting`` with LoRA of several ranks, alpha = 2 r, with Fed-SB's R and with all
weights (see ``benchmarks.runs`` for where results are kept). A line is the mean over seeds and its
deviation: the score on the clients' test rows, what is lost of the score on the source's rows, the
rank of the merged update, different answers among several, and message bytes with set-up.
"""

import argparse
import statistics

from benchmarks.markdown import code, table
from benchmarks.runs import mean_and_deviation, read, run_missing
from fl_app.runs.read import Run
from fl_app.runs.text import size

ENTRIES = {
    **{
        f"forgetting_r{r}_lr3.5e-3": (
            f"experiment=forgetting adapter.r={r} adapter.alpha={2 * r} optimizer.lr=3.5e-3"
        )
        for r in (1, 4, 8, 16)
    },
    "forgetting_lora_sb": "experiment=forgetting adapter=lora_sb adapter.r=16 strategy=fed_sb",
    "forgetting_full": "experiment=forgetting adapter=full optimizer.lr=2e-3",
}
HEADER = (
    "overrides", "values", "learned: test", "forgotten: source", "effective rank",
    "distinct answers", "sent",
)  # fmt: skip


def line(words: str, found: list[Run]) -> list[str]:
    """Return the cells of an entry."""
    source = [run.final("source") for run in found]
    return [
        code(words),
        f"{found[0].summary['trainable_scalars']:,}",
        mean_and_deviation([run.final("test")["accuracy"] for run in found]),
        mean_and_deviation([one["forgotten"] for one in source]),
        mean_and_deviation([one["effective_rank"] for one in source], 1),
        mean_and_deviation([one["distinct_answers"] for one in source]),
        size(statistics.mean(run.ledger.sent(max(run.curve)) for run in found)),
    ]


def main() -> None:
    """Make the runs that have no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    run_missing(ENTRIES, seeds)
    runs = read(ENTRIES, seeds)
    print(table(HEADER, [line(ENTRIES[label], found) for label, found in runs.items()]), end="")


if __name__ == "__main__":
    main()
