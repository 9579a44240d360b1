"""Scores and bytes of configurations over their seeds, as plain data for the page and the picture.

Only completed runs count, and each seed once.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl_app.report import pareto, significance
from fl_app.runs.clients import Turns, by_round, mark
from fl_app.runs.configurations import Configuration, group
from fl_app.runs.place import without_places
from fl_app.runs.read import Run
from fl_app.runs.text import title
from fl_app.tasks.metrics import oriented, scale
from fl_app.wire.ledger import TRAINING

PARTS = ("set-up", "payload down", "overhead down", "payload up", "overhead up")


def comparable(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one comparison per metric and test set, with the most runs first.

    Returns
    -------
    list of dict
        ``title``, ``dataset``, ``rows`` (which test rows), ``metric``, its ``name`` and
        whether ``lower_is_better``, ``target``, ``configurations`` (see `configuration`, best
        first) and ``differences`` (for each as the baseline, see
        ``fl_app.report.significance``).
    """
    tests = Counter(run.judged_by for run in runs)
    found = [(_counted(one), one) for one in group(runs)]
    sets = []
    for test, _ in tests.most_common():
        members = [(c, one) for c, one in found if c and c[0].judged_by == test]
        if members:
            sets.append(_comparison(test, members))
    for one in sets:
        alike = [set(other["rows"]) for other in sets if other["dataset"] == one["dataset"]]
        own = [row for row in one["rows"] if row not in set.intersection(*alike)]
        one["title"] += f" ({', '.join(own)})" if own else ""
    _number(sets)
    return [_passed_on(one) for one in sets]


def _passed_on(one: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison that names no place of this machine."""
    own = [row | {"label": without_places(row["label"])} for row in one["configurations"]]
    return one | {
        "title": without_places(one["title"]),
        "dataset": without_places(one["dataset"]),
        "rows": [without_places(row) for row in one["rows"]],
        "configurations": own,
    }


def _number(sets: Sequence[dict[str, Any]]) -> None:
    """Give each configuration its number, for colour and symbol, in all comparisons the same.

    Those of the fronts are first, so that no two of them share a colour before all are used.
    """
    rows = sorted(
        (row for one in sets for row in one["configurations"]), key=lambda r: not r["front"]
    )
    numbers = {label: i for i, label in enumerate(dict.fromkeys(row["label"] for row in rows))}
    for row in rows:
        row["style"] = numbers[row["label"]]


def left_out(runs: Sequence[Run]) -> list[tuple[Path, str]]:
    """Return the runs that do not count, with the reason."""
    kept = {run.path for one in group(runs) for run in _counted(one)}
    return [(run.path, _why_not(run)) for run in runs if run.path not in kept]


def _why_not(run: Run) -> str:
    if run.status != "completed":
        return run.status
    return f"repeats seed {run.seed} of its configuration" if run.curve else "has no score"


def _counted(one: Configuration) -> list[Run]:
    """Return a configuration's completed runs, the first of each seed."""
    seeds: dict[int, Run] = {}
    for run in one.runs:
        if run.status == "completed" and run.curve:
            seeds.setdefault(run.seed, run)
    return list(seeds.values())


def _comparison(
    test: tuple[str, ...], members: list[tuple[list[Run], Configuration]]
) -> dict[str, Any]:
    metric, dataset, *rows = test
    goals = Counter(run.option("target.value") for runs, _ in members for run in runs)
    goals.pop(None, None)
    target = goals.most_common(1)[0][0] if goals else None
    rows_of = [configuration(runs, one.label, one.method, target) for runs, one in members]
    # Best first, in every chart and table.
    good = [oriented(metric, row["score"]["mean"]) for row in rows_of]
    order = sorted(
        range(len(rows_of)),
        key=lambda i: (-good[i], rows_of[i]["bytes"]["mean"], rows_of[i]["label"]),
    )
    rows_of, good = [rows_of[i] for i in order], [good[i] for i in order]
    best = pareto.front([(row["bytes"]["mean"], x) for row, x in zip(rows_of, good, strict=True)])
    for place, i in enumerate(best, start=1):
        rows_of[i]["front"] = place
        rows_of[i]["star"] = "(*)" if rows_of[i]["mark"] else "*"
    samples = [row["score"]["values"] for row in rows_of]
    return {
        "title": f"{title(metric)} on {dataset}",
        "dataset": dataset,
        "rows": rows,
        "metric": metric,
        "name": title(metric),
        "lower_is_better": scale(metric).lower_is_better,
        "target": target,
        "configurations": rows_of,
        "differences": [
            [asdict(d) for d in significance.differences(samples, i)] for i in range(len(samples))
        ],
    }


def configuration(
    runs: Sequence[Run], label: str, method: str, target: float | None
) -> dict[str, Any]:
    """Return the data of a configuration for the charts.

    Parameters
    ----------
    runs : sequence of Run
        One run per seed.
    label, method : str
        See ``fl_app.runs.configurations.Configuration``.
    target : float or None
        The score to reach.

    Returns
    -------
    dict
        Spreads (see `spread`) of the final scores, test scores of the best round, bytes, bits per
        scalar, seconds, and rounds and bytes to the target; ``selected_on``, which scores selected
        the last two and the best round; ``aiming``, how many runs have a target; ``parts``, mean
        bytes by ``PARTS``; ``curve``, test scores and bytes by round; ``rounds``, the details of
        each round if there is one run; ``style``, its number, for colour and symbol; and ``front``,
        its place on the Pareto front, 0 for none yet. Where a client's turn was lost or a client
        absent, ``mark`` says so, and the label too; ``star`` is "*" on the front, "(*)" if marked.
    """
    metric = runs[0].target_metric
    aiming = [run for run in runs if run.option("target.value") is not None]
    met = [(run, r) for run in aiming if (r := run.first_met(target)) is not None]
    # In the label, which every table and chart shows: what such a run sent and scored is not what
    # it would have.
    marked = mark(sum(run.lost_turns for run in runs), sum(len(run.absent) for run in runs))
    return {
        "label": f"{label} [{marked}]" if marked else label,
        "mark": marked,
        "star": "",
        "method": method,
        "style": 0,
        "front": 0,
        "seeds": [run.seed for run in runs],
        "score": spread([run.curve[max(run.curve)] for run in runs]),
        "unseen": spread([f[metric] for run in runs if metric in (f := run.final("unseen"))]),
        "best": spread([run.curve[r] for run in runs if (r := run.best_round) is not None]),
        "selected_on": " and ".join(sorted({run.selected_on for run in runs})),
        "bytes": spread([run.ledger.sent() for run in runs]),
        "bits": spread([b for run in runs if (b := run.bits_per_scalar_up()) is not None]),
        "seconds": spread([s for run in runs if (s := _seconds(run)) is not None]),
        "aiming": len(aiming),
        "rounds_to_target": spread([r for _, r in met]),
        "bytes_to_target": spread([run.ledger.sent(until=r) for run, r in met]),
        "parts": [statistics.mean(values) for values in zip(*map(_parts, runs), strict=True)],
        "curve": _curve(runs),
        "rounds": _rounds(runs[0]) if len(runs) == 1 else [],
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean (None without values), standard deviation (None below two), and the values."""
    return {
        "mean": statistics.mean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def _seconds(run: Run) -> float | None:
    return run.summary.get("seconds", {}).get("total")


def _parts(run: Run) -> tuple[int, ...]:
    """Return the message bytes by ``PARTS``; they add up to the bytes sent."""
    down, up = (
        (run.bytes_of("payload_bytes", "train", d), run.bytes_of("message_bytes", "train", d))
        for d in ("down", "up")
    )
    return (
        run.bytes_of("message_bytes", "setup"),
        down[0],
        down[1] - down[0],
        up[0],
        up[1] - up[0],
    )


def _curve(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, by round, the spread of the score over seeds and the mean bytes sent so far.

    Only runs that have a score for the round count.
    """
    rounds = sorted({r for run in runs for r in run.curve})
    return [
        {
            "round": r,
            "bytes": statistics.mean(run.ledger.sent(until=r) for run in runs if r in run.curve),
            **spread([run.curve[r] for run in runs if r in run.curve]),
        }
        for r in rounds
    ]


def _rounds(run: Run) -> list[dict[str, Any]]:
    """Return who took part and who did not, message bytes and scores of each round."""
    found = []
    for number in sorted({r for r, split, *_ in run.metrics if split == "test"}):
        rows = [t for t in run.ledger.rows if t.round == number and t.kind != "evaluate"]
        turns = next((t for t in by_round(rows) if t.kind == "train"), Turns(number, "train"))
        found.append(
            {
                "round": number,
                "clients": [run.called(client) for client in turns.used],
                **{
                    name: [run.called(client) for client in sorted(getattr(turns, name))]
                    for name in ("lost", "late", "clipped")
                },
                "setup": sum(t.message_bytes for t in rows if t.kind == "setup"),
                **{
                    d: sum(t.message_bytes for t in rows if t.kind in TRAINING and t.direction == d)
                    for d in ("down", "up")
                },
                **{
                    key: {m: v for r, s, m, v in run.metrics if (r, s) == (number, split)}
                    for key, split in (("scores", "test"), ("validation", "validation"))
                },
            }
        )
    return found
