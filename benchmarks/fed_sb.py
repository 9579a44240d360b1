"""``python -m benchmarks.fed_sb [--task docvqa|word_problems] [--seeds 0 1 2] [ENTRY ...]``.

Fed-SB and the methods that its paper compares it with, and some of them with privacy, on the
embedded tasks through real `flwr run`s. The target of a task is the one of its configuration. Runs
that have a result in ``docs/results/`` are not repeated.
"""

import argparse
import statistics

from benchmarks.runs import mean_and_deviation, read, run_missing
from fl_app.config import compose
from fl_app.runs.read import Run
from fl_app.runs.text import size, title

TASKS = {
    "docvqa": "",
    "word_problems": "data=word_problems task=word_problems model=llama-tiny",
}
RANKS = (4, 8, 16, 32)
BASELINES = {
    "full": "experiment=fedit adapter=full optimizer.lr=1e-3",
    "FedIT": "experiment=fedit",
    "FFA-LoRA": "experiment=ffa_lora",
    "FLoRA": "experiment=flora",
    "FedEx-LoRA": "experiment=fedex_lora",
    "FlexLoRA": "experiment=flex_lora",
    "FedIT, NF4": "experiment=fedit codec=nf4",
    "nf4_single": "experiment=nf4_single",
    "thin": "experiment=thin",
}
FED_SB = {
    f"Fed-SB r {r}, {codec}": f"experiment=fed_sb adapter.r={r} codec={codec.lower()}"
    for r in RANKS
    for codec in ("fp32", "NF4")
} | {
    f"Fed-SB r {r}, NF4, single client": f"experiment=nf4_single adapter=lora_sb adapter.r={r} "
    "adapter.setup=derive optimizer.lr=1e-2"
    for r in RANKS[1:]
}
PRIVATE = {
    f"{name}, epsilon {epsilon}": f"{overrides} privacy=dp_sgd privacy.noise=seeded "
    f"privacy.epsilon={epsilon}"
    for name, overrides in (
        ("Fed-SB r 16", "experiment=fed_sb adapter.r=16"),
        ("FedIT", "experiment=fedit codec=nf4"),
    )
    for epsilon in (1, 3, 8)
}
ENTRIES = {**BASELINES, **FED_SB, **PRIVATE}


def label(task: str, name: str) -> str:
    """Return the label of an entry's runs and results."""
    plain = name.lower().replace(", ", "-").replace(" ", "")
    return f"fedsb-{task}-{plain}"


def overrides_of(task: str, name: str) -> str:
    """Return the overrides of an entry's runs."""
    return f"{ENTRIES[name]} {TASKS[task]}".strip()


def line(name: str, found: list[Run], metric: str, target: float) -> str:
    """Return an entry's line of the table."""
    met = [run.first_met(target) for run in found]
    until = [r if r is not None else max(run.curve) for run, r in zip(found, met, strict=True)]
    sent = statistics.mean(run.ledger.sent(r) for run, r in zip(found, until, strict=True))
    cells = (
        name,
        str(len(found)),
        f"{found[0].summary['trainable_scalars']:,}",
        mean_and_deviation([run.final("test")[metric] for run in found]),
        mean_and_deviation([run.final("unseen")[metric] for run in found]),
        ", ".join("missed" if r is None else str(r) for r in met),
        f"missed with {size(sent)}" if None in met else size(sent),
        size(statistics.mean(run.bytes_of("message_bytes", "setup") for run in found)),
        *((f"{p['epsilon']:.2f}",) if (p := found[0].summary.get("privacy")) else ("-",)),
    )
    return "| " + " | ".join(cells) + " |"


def table(task: str, names: list[str], seeds: list[int]) -> str:
    """Return the Markdown table of the entries of a task."""
    runs = read({name: overrides_of(task, name) for name in names}, seeds)
    target = compose(TASKS[task]).target
    header = (
        task, "seeds", "trained", title(target.metric), "unseen",
        f"rounds to {target.value}", "message bytes until then", "of them set-up", "epsilon",
    )  # fmt: skip
    rows = [line(name, found, target.metric, target.value) for name, found in runs.items()]
    return "\n".join(["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *rows])


def main() -> None:
    """Run what is missing and print a table for each task."""
    parser = argparse.ArgumentParser(description="Fed-SB and its baselines on the embedded tasks")
    parser.add_argument("entries", nargs="*", default=list(ENTRIES), metavar="ENTRY")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    unknown = sorted({*arguments.entries} - {*ENTRIES})
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {'; '.join(ENTRIES)}")
    for task in arguments.task:
        overrides = {label(task, name): overrides_of(task, name) for name in arguments.entries}
        for words in overrides.values():
            compose(words)  # so that a mistake is reported before anything runs
        run_missing(overrides, arguments.seeds)
        print(table(task, arguments.entries, arguments.seeds), end="\n\n")


if __name__ == "__main__":
    main()
