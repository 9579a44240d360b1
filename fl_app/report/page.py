"""The report page: data and charts in one HTML file, made from the folders of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from fl_app.config import read_text
from fl_app.files import installed
from fl_app.report import plotly
from fl_app.report.comparison import PARTS, comparable, configuration, left_out
from fl_app.report.palette import BEATEN, look
from fl_app.report.significance import MIN_SEEDS
from fl_app.runs import answers, selection
from fl_app.runs.catalog import read_all, to_frame
from fl_app.runs.place import relative, without_places
from fl_app.runs.read import Run, read
from fl_app.runs.spreadsheet import to_csv
from fl_app.runs.text import duration, guarantee, is_rehearsal, score, size, title

if TYPE_CHECKING:
    import pandas as pd

SCRIPTS = ("elements.js", "charts.js", "pareto.js", "tables.js", "page.js")
BYTES = {
    "payload_up": "payload up: the models as the codec encoded them",
    "payload_down": "payload down",
    "message_up": "messages up: all Flower objects",
    "message_down": "messages down",
    "message_down_seed_only": "messages down, if the first download contained only the seed",
    "setup": "set-up",
    "total": "sent in total: messages of training and set-up",
    "evaluate": "evaluation",
}
SECONDS = {
    "total": "in total, from the start to the end",
    "setup": "of it, set-up",
    "evaluate": "of it, evaluation on the server",
    "train": "training, summed over all turns of clients",
    "encode": "encoding, summed over all messages",
    "decode": "decoding, summed over all messages",
}


def write(folder: Path, target_file: Path | None = None) -> Path:
    """Write the page of one run and return its path.

    It is one HTML file. The page in a run's folder of a sweep uses a script of 5 MB in the folder
    above, which the pages of all these runs share.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    target_file : Path or None
        The page; None: ``folder/report.html``.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a run.
    """
    run = read(folder)
    summary = run.summary
    goal = run.option("target.value")
    one = configuration([run], folder.absolute().name, run.method, goal) if run.curve else None
    metric = run.target_metric
    data = {
        "sets": []
        if one is None
        else [
            {
                "title": without_places(f"{title(str(metric))} on {run.dataset}"),
                "metric": metric,
                "name": title(str(metric)),
                "target": goal,
                "configurations": [one],
                "differences": [[]],
            }
        ],
        "tables": {},
    }
    target = target_file or folder / "report.html"
    return _render(
        target,
        data,
        script=plotly.shared(target),
        heading=folder.absolute().name,
        subtitle=f"experiment {run.experiment}, seed {run.seed}, "
        f"{max((r for r, *_ in run.metrics), default=0)} rounds, {run.status}",
        status=run.status,
        facts=_facts(run),
        rounds=one["rounds"] if one else [],
        bytes=_bytes(run),
        seconds=_seconds(summary.get("seconds", {})),
        config=without_places(read_text(folder / "config.yaml")),
        answers=answers.read(folder),
        versions={**summary.get("versions", {}), "theta0": summary.get("theta0_digest", "unknown")},
    )


def compare_runs(
    runs: Iterable[Run | Path | str],
    target_file: Path | str = "report.html",
    heading: str = "Runs compared",
) -> Path:
    """Write the page that compares runs and return its path.

    It is one HTML file that opens offline: scores over bytes and rounds, the Pareto front, what is
    larger than the spread over seeds, and a table of all runs.

    Parameters
    ----------
    runs : iterable of Run or path
        Runs, or their folders as `find_runs` returns them.
    target_file : Path or str
        The page to write.
    heading : str
        Its title.

    Raises
    ------
    FileNotFoundError
        If a folder is not that of a run, or the folder of ``target_file`` does not exist.
    ValueError
        If a run cannot be read.

    Examples
    --------
    >>> import fl_app
    >>> fl_app.compare_runs(fl_app.find_runs("runs"), "comparison.html").name
    'comparison.html'
    """
    compared = read_all(runs)
    sets = comparable(compared)
    target, base = Path(target_file), Path(target_file).parent
    table = to_frame(compared, base)
    counted = sum(len(one["seeds"]) for part in sets for one in part["configurations"])
    found = sum(len(part["configurations"]) for part in sets)
    return _render(
        target,
        {
            "sets": sets,
            "tables": {"runs": {"columns": list(table.columns), "rows": _cells(table)}},
            "min_seeds": MIN_SEEDS,
            "csv": to_csv(table),
        },
        heading=heading,
        subtitle=f"{found} configurations, {counted} completed runs",
        status="completed",
        left_out=[(relative(path, base), why) for path, why in left_out(compared)],
    )


def _render(target: Path, data: dict[str, Any], **values: Any) -> Path:
    """Write the page from the template, style sheet and scripts of this package."""
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_part("template.html"))
    empty = dict.fromkeys(("facts", "rounds", "bytes", "seconds", "left_out"), ())
    optional = dict.fromkeys(("config", "versions", "answers", "script"))
    target.write_text(
        page.render(
            **empty
            | optional
            | values
            | {
                "data": _finite(data | {"parts": PARTS, "beaten": BEATEN, "looks": _looks(data)}),
                "css": _part("page.css"),
                "js": "\n".join(map(_part, SCRIPTS)),
                "plotly": "" if values.get("script") else plotly.script(),
                "size": size,
                "duration": duration,
                "score": score,
                "title": title,
            }
        ),
        encoding="utf-8",
    )
    return target


def _part(name: str) -> str:
    return installed(f"fl_app/report/{name}").read_text(encoding="utf-8")


def _looks(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return colour and symbol of every configuration, by its number."""
    styles = (row["style"] for one in data["sets"] for row in one["configurations"])
    return [look(number) for number in range(max(styles, default=-1) + 1)]


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return the main facts about a run as (value, description)."""
    facts = [
        (score(name, value), f"{title(name)}, {split}")
        for split in ("test", "unseen", "validation", "source")
        for name, value in run.final(split).items()
    ]
    if (best := run.best_round) is not None:
        kept = "; its model: adapter-best/" if run.best_adapter else ""
        facts.append((f"round {best}", f"the best: {_selecting(run, best)}{kept}"))
        if run.last_is_worse:
            facts.append(("warning", f"the last round is clearly worse than round {best}"))
    facts.append((size(run.ledger.sent()), "sent, including set-up"))
    if (bits := run.bits_per_scalar_up()) is not None:
        facts.append((f"{bits:.3f}", "bits per scalar up"))
    if run.mark:
        gone = [f"client {run.called(one)}, absent: {why}" for one, why in run.absent.items()]
        facts.append((run.mark, "; ".join([*run.losses, *gone])))
    goal = run.option("target.value")
    if goal is not None:
        met = run.first_met(goal)
        what = f"{title(str(run.target_metric))} {goal:g}"
        facts.append(
            ("missed", f"target {what}")
            if met is None
            else (
                size(run.ledger.sent(until=met)),
                f"sent until {what} (round {met} by {run.selected_on})",
            )
        )
    if link := run.summary.get("link"):
        facts.append((duration(link["seconds"]), "of transfers on the simulated link"))
        if link["to_target_seconds"] is not None:
            facts.append((duration(link["to_target_seconds"]), "of transfers until the target"))
        facts.append((size(link["received"]), f"arrived of {size(link['sent'])} sent"))
    if spent := run.summary.get("privacy"):
        promise = "rehearsal" if is_rehearsal(spent) else f"epsilon {spent['epsilon']:.3g}"
        facts.append((promise, guarantee(spent)))
    if (total := run.summary.get("seconds", {}).get("total")) is not None:
        facts.append((f"{total:.0f} s", "in total"))
    return facts


def _selecting(run: Run, best: int) -> str:
    """Return by which score a round is the best."""
    metric, split = str(run.target_metric), run.selected_on
    value = selection.scores(run.metrics, split, metric)[best]
    return f"{title(metric)} {score(metric, value)} on {split}, which selected it"


def _seconds(found: dict[str, float]) -> list[tuple[str, float]]:
    return [(SECONDS[key], found[key]) for key in SECONDS if key in found]


def _bytes(run: Run) -> list[tuple[str, int]]:
    found = [(BYTES.get(key, key), value) for key, value in run.summary.get("bytes", {}).items()]
    if log := run.summary.get("log"):
        found.append((f"communication log, convention {log['convention']}", log["bytes"]))
    return found


def _cells(table: pd.DataFrame) -> list[list[Any]]:
    return json.loads(table.to_json(orient="values", double_precision=15))


def _finite(value: Any) -> Any:
    """Return ``value`` with None instead of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
