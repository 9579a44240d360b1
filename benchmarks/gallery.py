"""``python -m benchmarks.gallery [--list FILE] [--redraw] [LABEL ...]``: results that last.

It makes the runs of ``benchmarks/gallery.yaml`` that have no result in ``docs/results/`` yet, and
draws the tables of ``docs/results/README.md`` and the pictures beside it from the results alone. It
can be stopped at any time; called again, it goes on with what is missing.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import markdown, runs
from benchmarks.runs import Asked
from fl_app.config import ConfigError, compose, read_yaml
from fl_app.preflight import check
from fl_app.report import picture
from fl_app.report.comparison import comparable
from fl_app.report.significance import LEVEL, MIN_SEEDS
from fl_app.runs.configurations import digest
from fl_app.runs.read import Run
from fl_app.runs.result import Result
from fl_app.runs.text import score, size, spread, title, until_target

# Whose bytes the picture marks: the target is that of the first; the second won the competition.
REFERENCES = {"fedavg_full": "full FedAvg", "nf4_single": "the winner's recipe"}
FIRST, OTHERS = "pareto.png", "pareto_others.png"
LIST = Path(__file__).with_name("gallery.yaml")
HEAD = """\
# Results

Drawn by `make gallery` from the files of this folder, one for each run. A file has scores and bytes
by round, seconds by phase, versions and machine, and the overrides to run it again. Do not edit
them: sums that do not follow from the rounds are refused.

- A score is the mean over seeds ± the standard deviation, on the test rows after the last round.
- *best round* and *until the target*: the round is selected by the scores on the validation rows,
  where a run has them, and its test score is shown; *selected on* says which.
- Bytes are those of whole messages, both directions, with set-up and without evaluation.
- Seconds are those of the machine in the list of runs; with a load above its cores they were
  measured beside other work.
- *frame* is the version of the frame's format: bytes of version 2 are those of before the envelope
  became slim, some 1.2 kB a turn more.
- *front*: no other configuration has a better mean for fewer bytes.
"""


def asked(path: Path) -> tuple[dict[str, str], list[int]]:
    """Return the overrides by label, and the seeds, of a list of runs.

    Raises
    ------
    ConfigError
        If it is not such a list, or names a configuration that does not exist.
    """
    content = read_yaml(path)
    overrides, seeds = content.get("runs"), content.get("seeds")
    if {*content} != {"runs", "seeds"} or not isinstance(overrides, dict):
        raise ConfigError(f"{path} should have seeds, a list, and runs, overrides by label")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds={seeds!r} should be a list of whole numbers")
    labels: dict[str, str] = {}
    for label, words in overrides.items():
        cfg = compose(str(words or ""))
        check(cfg)  # so that a mistake is told before anything runs
        if (other := labels.setdefault(digest(cfg), label)) != label:
            raise ConfigError(f"{path}: {other} and {label} are the same configuration")
    return {str(label): str(words or "") for label, words in overrides.items()}, seeds


def current(results: Iterable[Result]) -> list[Run]:
    """Return the runs of the results whose overrides mean the same configuration today."""
    return [one.run() for one in results if one.is_current]


def pictured(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each picture: those of the test with the most runs, and all others."""
    tests = Counter(run.judged_by for run in found).most_common(1)
    first = [run for run in found if run.judged_by == tests[0][0]]
    others = [run for run in found if run.judged_by != tests[0][0]]
    return {name: some for name, some in ((FIRST, first), (OTHERS, others)) if some}


def page(found: Sequence[Run], earlier: int, left: Sequence[Asked]) -> str:
    """Return the page of tables, in Markdown.

    Parameters
    ----------
    found : sequence of Run
        The runs of all current results.
    earlier : int
        How many results are of configurations of an earlier version.
    left : sequence of Asked
        Runs of the list without a result.
    """
    parts = [HEAD]
    for name in pictured(found):
        parts.append(f"![final scores against message bytes, the Pareto front]({name})\n")
    for one in comparable(found):
        parts += [f"## {markdown.escaped(one['title'])}\n", table(one), differences(one)]
        if any(row["mark"] for row in one["configurations"]):
            parts.append("(*) on the front, but it lost clients: not comparable.\n")
    if found:
        parts += ["## Runs\n", runs_table(found)]
    if left:
        seeds: dict[tuple[str, str], list[str]] = {}
        for label, words, seed in left:
            seeds.setdefault((label, words), []).append(str(seed))
        lines = [
            f"- {markdown.escaped(label)} ({markdown.code(words)}), seeds {', '.join(some)}\n"
            for (label, words), some in seeds.items()
        ]
        parts += ["## Missing\n", f"`make gallery` runs them:\n\n{''.join(lines)}"]
    if earlier:
        parts.append(
            f"{earlier} of the files are results of configurations of an earlier version, and in "
            "no table.\n"
        )
    return "\n".join(parts)


def table(one: Mapping[str, Any]) -> str:
    """Return the configurations of a comparison, best first."""
    metric, target = one["metric"], one["target"]
    goal = "the target" if target is None else f"{target:g}"
    header = (
        "configuration", "seeds", one["name"], "best round's", "selected on", "unseen", "sent",
        f"rounds until {goal}", f"sent until {goal}", "bits up", "seconds", "front",
    )  # fmt: skip
    scored = partial(score, metric)
    rows = []
    for row in one["configurations"]:
        rows.append(
            (
                markdown.code(row["label"]),
                str(len(row["seeds"])),
                spread(row["score"], scored),
                spread(row["best"], scored),
                row["selected_on"],
                spread(row["unseen"], scored),
                spread(row["bytes"], size),
                ", ".join(f"{value:g}" for value in row["rounds_to_target"]["values"]) or "-",
                until_target(row, target),
                spread(row["bits"], "{:.2f}".format),
                spread(row["seconds"], "{:.0f}".format),
                row["star"],
            )
        )
    return markdown.table(header, rows)


def differences(one: Mapping[str, Any]) -> str:
    """Return the tests of all configurations against the best one that has enough seeds."""
    rows = one["configurations"]
    able = [i for i, tests in enumerate(one["differences"]) if tests]
    if not able:
        return (
            f"No difference was tested: it takes two configurations with {MIN_SEEDS} seeds each.\n"
        )
    best = able[0]
    lines = [
        (
            markdown.code(rows[d["index"]]["label"]),
            f"{d['difference']:+.4f}",
            "-" if d["low"] is None else f"{d['low']:+.4f} to {d['high']:+.4f}",
            "-" if d["holm"] is None else f"{d['holm']:.3f}",
            "-" if d["holm"] is None else "yes" if d["holm"] < LEVEL else "no",
        )
        for d in one["differences"][best]
    ]
    header = ("configuration", "difference", "95 % interval", "p, Holm", "significant")
    return (
        f"Final {one['name']} against {markdown.code(rows[best]['label'])}, by Welch's test over "
        f"seeds, p corrected by Holm:\n\n{markdown.table(header, lines)}"
    )


def runs_table(found: Sequence[Run]) -> str:
    """Return a line per run: its file, seed, score, bytes, seconds and machine."""
    rows = []
    for run in found:
        metric, machine = str(run.target_metric), run.summary["machine"]
        final = run.final("test").get(metric)
        rows.append(
            (
                markdown.link(run.path.name),
                str(run.seed),
                "-" if final is None else f"{title(metric)} {score(metric, final)}",
                f"{run.ledger.sent():,}",
                f"{run.summary['seconds']['total']:.0f}",
                markdown.escaped(
                    f"{machine['processor']}, {machine['cores']} cores, {machine['device']}"
                ),
                "-" if machine["load"] is None else f"{machine['load']:g}",
                str(run.summary["frame_version"]),
            )
        )
    header = ("file", "seed", "final", "bytes sent", "seconds", "machine", "load", "frame")
    return markdown.table(header, rows)


def redraw(overrides: Mapping[str, str], seeds: Sequence[int]) -> None:
    """Write page and picture from the results, and print their paths."""
    results = runs.stored().values()
    found = current(results)
    text = page(found, len(results) - len(found), runs.missing(overrides, seeds))
    runs.RESULTS.mkdir(parents=True, exist_ok=True)
    (runs.RESULTS / "README.md").write_text(text, encoding="utf-8")
    print(runs.RESULTS / "README.md")
    for name, some in pictured(found).items():
        print(picture.draw(some, runs.RESULTS / name, REFERENCES))


def main() -> None:
    """Run what is missing, and draw page and picture, also if a run fails."""
    parser = argparse.ArgumentParser(description="keep the results of a list of runs")
    parser.add_argument("labels", nargs="*", metavar="LABEL", help="only these (default: all)")
    parser.add_argument("--list", type=Path, default=LIST, help="the list of runs")
    parser.add_argument("--redraw", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    try:
        overrides, seeds = asked(arguments.list)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    unknown = sorted({*arguments.labels} - {*overrides})
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(overrides)}")
    try:
        if not arguments.redraw:
            labels = arguments.labels or overrides
            runs.run_missing({label: overrides[label] for label in labels}, seeds)
    finally:
        redraw(overrides, seeds)


if __name__ == "__main__":
    main()
