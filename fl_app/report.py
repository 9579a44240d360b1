"""report.html: one self-contained page about one run, made from the files in its folder."""

import csv
import io
import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fl_app.console import duration, guarantee, score, size, title

STYLE: Any = {
    "svg.hashsalt": "thinwire",  # same run, same page
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
LABELS = {
    "payload_up": "payload up: what the codec made of the models",
    "payload_down": "payload down",
    "message_up": "messages up: all Flower objects",
    "message_down": "messages down",
    "message_down_seed_only": "messages down, if the first download brought only the seed",
    "setup": "set-up",
    "total": "sent in all: messages of training and set-up",
    "evaluate": "evaluation",
    "train": "training, all clients",
    "encode": "encoding",
    "decode": "decoding",
}
DOWN, UP, SCORE = "#4c78a8", "#f58518", "#2a7f62"


def write(folder: Path) -> Path:
    """Write ``folder/report.html`` and return its path.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a run.
    """
    summary = json.loads((folder / "summary.json").read_text())
    ledger = _read(folder / "ledger.csv")
    metrics = _read(folder / "metrics.csv")
    metric = summary["target"]["metric"]
    curve = {
        int(m["round"]): float(m["value"])
        for m in metrics
        if m["split"] == "test" and m["metric"] == metric
    }
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    target = folder / "report.html"
    target.write_text(
        page.render(
            name=folder.name,
            summary=summary,
            rows=_rounds(ledger, metrics),
            config=(folder / "config.yaml").read_text(),
            figures=_figures(ledger, title(metric), curve, summary["target"]["value"]),
            guarantee=guarantee,
            size=size,
            duration=duration,
            score=score,
            title=title,
            labels=LABELS,
        ),
        encoding="utf-8",
    )
    return target


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _bytes_by_round(
    ledger: list[dict[str, str]], rounds: list[int], direction: str, kinds: tuple[str, ...]
) -> list[int]:
    totals = dict.fromkeys(rounds, 0)
    for row in ledger:
        if row["direction"] == direction and row["kind"] in kinds and int(row["round"]) in totals:
            totals[int(row["round"])] += int(row["message_bytes"])
    return list(totals.values())


def _rounds(ledger: list[dict[str, str]], metrics: list[dict[str, str]]) -> list[dict[str, Any]]:
    rounds = sorted({int(m["round"]) for m in metrics if m["split"] == "test"})
    down = _bytes_by_round(ledger, rounds, "down", ("train",))
    up = _bytes_by_round(ledger, rounds, "up", ("train",))
    table = []
    for i, number in enumerate(rounds):
        scores = {
            m["metric"]: float(m["value"])
            for m in metrics
            if m["split"] == "test" and int(m["round"]) == number
        }
        clients = dict.fromkeys(
            row["partition"]
            for row in ledger
            if (int(row["round"]), row["direction"], row["kind"]) == (number, "down", "train")
        )
        table.append(
            {"round": number, "clients": clients, "down": down[i], "up": up[i], "scores": scores}
        )
    return table


def _figures(
    ledger: list[dict[str, str]], metric: str, curve: dict[int, float], target: float | None
) -> list[tuple[str, str]]:
    """Return (caption, svg) of each figure."""
    rounds = sorted(curve)
    scores = [curve[r] for r in rounds]
    kinds = ("train", "setup")
    down, up = (_bytes_by_round(ledger, rounds, d, kinds) for d in ("down", "up"))
    sent = list(accumulate(d + u for d, u in zip(down, up, strict=True)))

    def by_round(axes: Axes) -> None:
        axes.plot(rounds, scores, "o-", color=SCORE)
        axes.set(xlabel="round", ylabel=metric, ylim=(0, 1), xticks=rounds)
        _target_line(axes, target)

    def by_bytes(axes: Axes) -> None:
        # Round 0 has sent next to nothing, which a log axis cannot show at its place.
        axes.plot(sent[1:], scores[1:], "o-", color=SCORE)
        axes.set(xlabel="message bytes sent so far, both directions", ylabel=metric, ylim=(0, 1))
        axes.set_xscale("log")
        axes.set_xlim(min(sent[1:]) / 3, max(sent) * 3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(lambda value, _: size(value).replace(".0", ""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _target_line(axes, target)

    def stacked(axes: Axes) -> None:
        axes.bar(rounds, down, color=DOWN, label="down")
        axes.bar(rounds, up, bottom=down, color=UP, label="up")
        axes.set(xlabel="round (0 is set-up)", ylabel="message bytes", xticks=rounds)
        axes.yaxis.set_major_formatter(lambda value, _: size(value))
        axes.legend(frameon=False)

    figures = [(f"{metric} over rounds", by_round), ("Bytes per round, by direction", stacked)]
    if len(rounds) > 1:
        figures.insert(1, (f"{metric} over bytes", by_bytes))
    return [(caption, _svg(draw)) for caption, draw in figures]


def _target_line(axes: Axes, target: float | None) -> None:
    if target is not None:
        axes.axhline(target, color="#888888", linestyle="--", linewidth=1)
        axes.annotate(
            f"target {target:g}", (0.01, target), xycoords=("axes fraction", "data"), va="bottom"
        )


def _svg(draw: Any) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} - Thinwire</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; padding: 0; }
.facts div { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
th { border-bottom: 1px solid #999; } td:nth-child(2), th:nth-child(2) { text-align: left; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; border-radius: 6px; }
.failed { color: #b00020; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="{{ summary.status }}">experiment {{ summary.experiment }}, seed {{ summary.seed }},
{{ summary.rounds }} rounds, {{ summary.status }}</p>
<div class="facts">
{% for name, value in summary.final.items() %}
<div><b>{{ score(name, value) }}</b>{{ title(name) }}, test</div>
{% endfor %}
{% for name, value in summary.final_unseen.items() %}
<div><b>{{ score(name, value) }}</b>{{ title(name) }}, unseen</div>
{% endfor %}
<div><b>{{ size(summary.bytes.total) }}</b>
sent, set-up included</div>
{% if summary.bits_per_scalar_up %}
<div><b>{{ "%.3f" | format(summary.bits_per_scalar_up) }}</b>bits per scalar up</div>
{% endif %}
{% if summary.target.bytes %}
<div><b>{{ size(summary.target.bytes) }}</b>sent until {{ summary.target.metric }}
{{ summary.target.value }} (round {{ summary.target.round }})</div>
{% endif %}
{% if summary.privacy %}
<div><b>epsilon {{ "%.3g" | format(summary.privacy.epsilon) }}</b>
{{ guarantee(summary.privacy) }}</div>
{% endif %}
<div><b>{{ "%.0f" | format(summary.seconds.total) }} s</b>in total</div>
</div>
<div class="figures">
{% for caption, svg in figures %}<figure><figcaption>{{ caption }}</figcaption>{{ svg | safe }}
</figure>{% endfor %}
</div>
<h2>Rounds</h2>
<table>
<tr><th>round</th><th>clients</th>
{% for name in summary.final %}<th>{{ title(name) }}</th>{% endfor %}
<th>down</th><th>up</th></tr>
{% for row in rows %}<tr><td>{{ row.round }}</td><td>{{ row.clients | join(" ") }}</td>
{% for name in summary.final %}<td>{{ score(name, row.scores[name]) }}</td>{% endfor %}
<td>{{ size(row.down) }}</td><td>{{ size(row.up) }}</td></tr>
{% endfor %}</table>
<h2>Bytes</h2>
<table>
{% for key, value in summary.bytes.items() %}<tr><th>{{ labels.get(key, key) }}</th>
<td>{{ "{:,}".format(value) }}</td></tr>{% endfor %}
<tr><th>communication log, convention {{ summary.log.convention }}</th>
<td>{{ "{:,}".format(summary.log.bytes) }}</td></tr>
</table>
<h2>Time</h2>
<table>
{% for key, value in summary.seconds.items() %}<tr><th>{{ labels.get(key, key) }}</th>
<td>{{ duration(value) }}</td></tr>{% endfor %}
</table>
<h2>Configuration</h2>
<pre>{{ config }}</pre>
<h2>Versions</h2>
<pre>{% for key, value in summary.versions.items() %}{{ key }} {{ value }}
{% endfor %}theta0 {{ summary.theta0_digest }}</pre>
</body>
</html>
"""


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m fl_app.report runs/NAME ...")
    for argument in sys.argv[1:]:
        try:
            print(write(Path(argument)))
        except FileNotFoundError as error:
            sys.exit(f"{argument} is not the folder of a run that ended: {error}")
