"""``python -m benchmarks.gallery [--list FILE] [--redraw] [LABEL ...]``: results that last.

It makes the runs of ``benchmarks/gallery.yaml`` that have no result in ``docs/results/`` yet, and
draws the tables of ``docs/results/README.md`` and ``docs/results/pareto.png`` from the results
alone. It can be stopped at any time; called again, it goes on with what is missing.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import runs
from benchmarks.runs import Asked
from fl_app.config import ConfigError, compose, read_yaml
from fl_app.preflight import check
from fl_app.report import picture
from fl_app.report.comparison import comparable
from fl_app.report.significance import LEVEL, MIN_SEEDS
from fl_app.runs.configurations import digest
from fl_app.runs.read import Run
from fl_app.runs.result import Result
from fl_app.runs.text import score, size, title

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


def page(results: Sequence[Result], left: Sequence[Asked]) -> str:
    """Return the page of tables, in Markdown.

    Parameters
    ----------
    results : sequence of Result
        All stored results.
    left : sequence of Asked
        Runs of the list without one.
    """
    current = [one for one in results if one.is_current]
    files = {one.path.stem: one.path.name for one in current}
    found = [one.run() for one in current]
    parts = [HEAD]
    if current:
        parts.append("![final scores against message bytes, the Pareto front](pareto.png)\n")
    for one in comparable(found):
        parts += [f"## {one['title']}\n", table(one), differences(one)]
        if any(row["mark"] for row in one["configurations"]):
            parts.append("(*) on the front, but it lost clients: not comparable.\n")
    if files:
        rows = [(run, files[run.path.stem]) for run in found]
        parts += ["## Runs\n", runs_table(rows)]
    if left:
        seeds: dict[tuple[str, str], list[str]] = {}
        for label, words, seed in left:
            seeds.setdefault((label, words), []).append(str(seed))
        lines = [
            f"- {label} (`{words}`), seeds {', '.join(some)}\n"
            for (label, words), some in seeds.items()
        ]
        parts += ["## Missing\n", f"`make gallery` runs them:\n\n{''.join(lines)}"]
    if len(current) < len(results):
        parts.append(
            f"{len(results) - len(current)} of the files are results of configurations of an "
            "earlier version, and in no table.\n"
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
    rows = []
    for row in one["configurations"]:
        met = row["bytes_to_target"]
        missed = len(row["seeds"]) - len(met["values"])
        rows.append(
            (
                f"`{row['label']}`",
                str(len(row["seeds"])),
                _spread(row["score"], lambda value: score(metric, value)),
                _spread(row["best"], lambda value: score(metric, value)),
                row["selected_on"],
                _spread(row["unseen"], lambda value: score(metric, value)),
                _spread(row["bytes"], size),
                ", ".join(f"{value:g}" for value in row["rounds_to_target"]["values"]) or "-",
                f"missed by {missed} seeds" if missed else _spread(met, size),
                _spread(row["bits"], lambda value: f"{value:.2f}"),
                _spread(row["seconds"], lambda value: f"{value:.0f}"),
                row["star"],
            )
        )
    return markdown(header, rows)


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
            f"`{rows[d['index']]['label']}`",
            f"{d['difference']:+.4f}",
            "-" if d["low"] is None else f"{d['low']:+.4f} to {d['high']:+.4f}",
            "-" if d["holm"] is None else f"{d['holm']:.3f}",
            "-" if d["holm"] is None else "yes" if d["holm"] < LEVEL else "no",
        )
        for d in one["differences"][best]
    ]
    header = ("configuration", "difference", "95 % interval", "p, Holm", "significant")
    return (
        f"Final {one['name']} against `{rows[best]['label']}`, by Welch's test over seeds, p "
        f"corrected by Holm:\n\n{markdown(header, lines)}"
    )


def runs_table(found: Sequence[tuple[Run, str]]) -> str:
    """Return a line per run: its file, seed, score, bytes, seconds and machine."""
    rows = []
    for run, file in found:
        metric, machine = str(run.target_metric), run.summary["machine"]
        final = run.final("test").get(metric)
        rows.append(
            (
                f"[{file}]({file})",
                str(run.seed),
                "-" if final is None else f"{title(metric)} {score(metric, final)}",
                f"{run.ledger.sent():,}",
                f"{run.summary['seconds']['total']:.0f}",
                f"{machine['processor']}, {machine['cores']} cores, {machine['device']}",
                "-" if machine["load"] is None else f"{machine['load']:g}",
            )
        )
    return markdown(("file", "seed", "final", "bytes sent", "seconds", "machine", "load"), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar in a cell does not end it."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _spread(values: Mapping[str, Any], text: Any) -> str:
    if values["mean"] is None:
        return "-"
    return text(values["mean"]) + ("" if values["sd"] is None else f" ± {text(values['sd'])}")


def redraw(overrides: Mapping[str, str], seeds: Sequence[int]) -> None:
    """Write page and picture from the results, and print their paths."""
    results = list(runs.stored().values())
    text = page(results, runs.missing(overrides, seeds))
    runs.RESULTS.mkdir(parents=True, exist_ok=True)
    (runs.RESULTS / "README.md").write_text(text, encoding="utf-8")
    print(runs.RESULTS / "README.md")
    if found := [one.run() for one in results if one.is_current]:
        print(picture.draw(found, runs.RESULTS / "pareto.png"))


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
