"""``python -m benchmarks.leaderboard_mini [--seeds 0 1 2] [ENTRY ...]``: the embedded leaderboard.

The competition's entries, and more codecs, on the embedded task through real `flwr run`s, sorted by
the bytes until the target was met on the mean of all seeds. The target is 95 % of the mean final
ANLS of fedavg_full, and a run meets it in the round that its validation scores select. Runs that
have a result in ``docs/results/`` are not repeated.
"""

import argparse
import statistics
from dataclasses import dataclass

from benchmarks.runs import mean_and_deviation, read, run_missing
from fl_app.runs.read import Run
from fl_app.runs.text import size
from fl_app.wire.conventions import COLUMNS

BASELINE = "fedavg_full"
SHARE = 0.95  # of the baseline's final ANLS


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes
    ----------
    label : str
        The label of its runs and results.
    overrides : str
        Its runs' overrides.
    mirrors : str
        The competition's entry that it corresponds to.
    convention : str
        How its bytes are counted, a key of ``wire.conventions.COLUMNS``.
    """

    label: str
    overrides: str
    mirrors: str = ""
    convention: str = "sent"


def _codecs(experiment: str, names: tuple[str, ...]) -> dict[str, Entry]:
    """Return entries of an experiment with other codecs; ``CODEC_0.3`` has ``codec.error=0.3``."""
    entries = {}
    for name in names:
        codec, _, error = name.rpartition("_")
        words = f"codec={codec} codec.error={error}" if error.startswith("0.") else f"codec={name}"
        strategy = "fedavg" if experiment == "fedavg_nf4" else "single_client"
        entries[f"{experiment} {words}"] = Entry(
            f"loop-{strategy}-{name}", f"experiment={experiment} {words}"
        )
    return entries


CODECS = ("nf4_dq", "uniform_entropy", "uniform_entropy_0.3", "sign", "ternary", "top_k")
ENTRIES = {
    "fedavg_full": Entry("fedavg_full", "experiment=fedavg_full", "fedavg_baseline", "competition"),
    "fedavg_lora, as logged": Entry(
        "fedavg_lora", "experiment=fedavg_lora", "lora_baseline", "competition"
    ),
    "fedavg_lora": Entry("fedavg_lora", "experiment=fedavg_lora", "lora_tuned"),
    "nf4_single": Entry("nf4_single", "experiment=nf4_single", "nf4_lora"),
    "nf4_single, rank 6, 2 x 16 epochs": Entry(
        "nf4_single_r6",
        "experiment=nf4_single adapter.r=6 adapter.alpha=12 rounds=2 local_epochs=16",
        "nf4_lora_r6",
    ),
    "shampoo_full": Entry("shampoo_full", "experiment=shampoo_full", "fedshampoo"),
    "shampoo_lora": Entry("shampoo_lora", "experiment=shampoo_lora", "fedshampoo_lora"),
    "shampoo_lora, not grafted": Entry(
        "shampoo_lora_plain",
        "experiment=shampoo_lora rounds=5 optimizer.graft=none optimizer.lr=4e-3 "
        "optimizer.eps=1e-6 optimizer.root_interval=10",
        "fedshampoo_lora",
    ),
    "shampoo_lora, not grafted, fresh roots": Entry(
        "shampoo_lora_fresh",
        "experiment=shampoo_lora rounds=5 optimizer.graft=none optimizer.lr=2e-2 "
        "optimizer.eps=1e-6 optimizer.root_interval=1",
        "fedshampoo_lora",
    ),
    "fedavg_nf4": Entry("fedavg_nf4", "experiment=fedavg_nf4"),
    "thin": Entry("thin", "experiment=thin"),
    **_codecs("nf4_single", CODECS),
    **_codecs("fedavg_nf4", CODECS),
}


def line(name: str, found: list[Run], target: float, baseline: float) -> tuple[bool, float, str]:
    """Return what lines are sorted by, and the line.

    They are sorted by whether the target was missed with any seed, then by bytes.
    """
    entry = ENTRIES[name]
    met = [run.first_met(target) for run in found]
    column = COLUMNS[entry.convention]
    until = [r if r is not None else max(run.curve) for run, r in zip(found, met, strict=True)]
    counted = statistics.mean(
        run.ledger.sent(r, column) for run, r in zip(found, until, strict=True)
    )
    messages = statistics.mean(run.ledger.sent(r) for run, r in zip(found, until, strict=True))
    missed = None in met
    final = [run.final("test") for run in found]
    cells = (
        name,
        entry.mirrors or "-",
        str(len(found)),
        mean_and_deviation([f["anls"] for f in final]),
        mean_and_deviation([100 * f["accuracy"] for f in final], 1) + " %",
        mean_and_deviation([run.final("unseen")["anls"] for run in found]),
        f"{statistics.mean(run.bits_per_scalar_up() or 0 for run in found):.2f}",
        ", ".join("missed" if r is None else str(r) for r in met),
        f"missed with {size(counted)}" if missed else size(counted),
        "-" if missed else size(messages),
        "-" if missed else f"1/{baseline / messages:.0f}",
    )
    return missed, counted, "| " + " | ".join(cells) + " |"


def table(names: list[str], runs: dict[str, list[Run]]) -> str:
    """Return the Markdown table of ``names``."""
    finals = [run.final("test")["anls"] for run in runs[BASELINE]]
    target = SHARE * statistics.mean(finals)
    rounds = [run.first_met(target) or max(run.curve) for run in runs[BASELINE]]
    baseline = statistics.mean(
        run.ledger.sent(r) for run, r in zip(runs[BASELINE], rounds, strict=True)
    )
    header = (
        "entry", "mirrors", "seeds", "ANLS", "accuracy", "unseen ANLS", "bits up",
        f"rounds to {target:.3f}", f"bytes to {target:.3f}", "as messages", f"of {BASELINE}",
    )  # fmt: skip
    lines = sorted(line(name, runs[name], target, baseline) for name in names)
    rows = [text for *_, text in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *rows])


def curve(name: str, found: list[Run]) -> str:
    """Return the mean ANLS of each round."""
    values = (statistics.mean(run.curve[r] for run in found) for r in found[0].curve)
    return f"{name}: " + " ".join(f"{value:.3f}" for value in values)


def phases(name: str, found: list[Run]) -> str:
    """Return the mean seconds of each phase."""
    seconds = [run.summary["seconds"] for run in found]
    means = {phase: statistics.mean(s[phase] for s in seconds) for phase in seconds[0]}
    return f"{name}: " + ", ".join(f"{phase} {value:.2f}" for phase, value in means.items())


def main() -> None:
    """Run what is missing and print the table, ANLS by round and seconds by phase."""
    parser = argparse.ArgumentParser(description="the competition's entries on the embedded task")
    parser.add_argument("entries", nargs="*", default=list(ENTRIES), metavar="ENTRY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    unknown = sorted({*arguments.entries} - {*ENTRIES})
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {'; '.join(ENTRIES)}")
    names = list(dict.fromkeys([BASELINE, *arguments.entries]))
    run_missing({ENTRIES[n].label: ENTRIES[n].overrides for n in names}, arguments.seeds)
    runs = read({name: ENTRIES[name].overrides for name in names}, arguments.seeds)
    print(table(names, runs))
    for title, describe in (("ANLS by round", curve), ("seconds", phases)):
        print(f"\n{title}, mean:\n" + "\n".join(describe(n, runs[n]) for n in names))


if __name__ == "__main__":
    main()
