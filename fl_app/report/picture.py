"""The Pareto front as a still picture, for a README or the end of a sweep."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox

from fl_app.report.comparison import comparable
from fl_app.report.palette import BEATEN, COLORS, SYMBOLS, look
from fl_app.runs.read import Run
from fl_app.runs.text import size

STYLE: Any = {
    "svg.hashsalt": "thinwire",  # the same runs give the same bytes
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
# Places to try for a label: whether above its point, and the range of distances in pixels.
BESIDE = ((True, 11, 55), (False, 11, 55))
PLACES = (*BESIDE, (True, 55, 400), (False, 55, 400))
LONGEST = 30  # characters of the label of a beaten configuration
WIDEST = 84  # of a line of a title
LONGEST_LEGEND = 44  # and in a legend of three columns
NEAR = 18  # a label within this distance in pixels needs no leader
INK, QUIET = "#1f2430", "#667085"
SMALL: Any = {"fontsize": 7.5}


def draw(
    runs: Sequence[Run], target_file: Path, references: Mapping[str, str] | None = None
) -> Path:
    """Draw one panel per metric and data set of the runs, and return the file's path.

    Parameters
    ----------
    runs : sequence of Run
        Only completed runs are drawn.
    target_file : Path
        Ends in .png or .svg.
    references : dict of str to str, optional
        What to call configurations, by label, whose bytes are marked by a line.

    Raises
    ------
    ValueError
        If none of the runs has completed.
    """
    sets = comparable(runs)
    if not sets:
        raise ValueError("no run has completed, so there is nothing to draw")
    # A single configuration makes no front.
    sets = [one for one in sets if len(one["configurations"]) > 1] or sets
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.2 * len(sets)), layout="constrained", dpi=120)
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(len(sets), 1, squeeze=False)[:, 0]
        for panel, one in zip(panels, sets, strict=True):
            _panel(panel, one)
            _mark(panel, one, references or {})
        canvas.draw()  # labels are placed around the drawing, in its pixels
        figure.set_layout_engine("none")
        for panel, one in zip(panels, sets, strict=True):
            _label(panel, one, canvas)
        metadata = {"Date": None} if target_file.suffix == ".svg" else None
        figure.savefig(target_file, metadata=metadata)
    return target_file


def _panel(axes: Axes, one: dict[str, Any]) -> None:
    rows = one["configurations"]
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["front"])
    for row in rows:
        color, symbol = look(row["style"])
        axes.errorbar(
            *_point(row),
            xerr=row["bytes"]["sd"],
            yerr=row["score"]["sd"],
            fmt="none",
            ecolor=QUIET,
            elinewidth=0.9,
            alpha=0.6 if row["front"] else 0.3,
            zorder=2,
        )
        axes.plot(
            *_point(row),
            marker=SYMBOLS[symbol],
            markersize=9 if row["front"] else 7,
            markerfacecolor="white" if row["mark"] else color if row["front"] else BEATEN,
            markeredgecolor=color,
            linestyle="",
            zorder=4 if row["front"] else 3,
        )
    axes.step(*zip(*map(_point, front), strict=True), where="post", color=INK, lw=1.4, zorder=2.5)
    if _has_legend(one):
        _legend(axes, rows)
    axes.set_xscale("log")
    axes.set(
        xlabel="message bytes of the whole run: both directions, including set-up",
        ylabel=f"final {one['name']}, mean over seeds",
    )
    heading = f"{one['title']}: {len(rows)} configurations, the Pareto front in colour"
    axes.set_title(
        textwrap.fill(heading, WIDEST)
        + (",\nhollow: clients were lost" if any(row["mark"] for row in rows) else ""),
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    axes.xaxis.set_major_formatter(lambda value, _: size(value).replace(".0 ", " "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if one["metric"] == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    _limit(axes, one, front)
    low, high = sorted(axes.get_ylim())
    # Outside of the axes the layout would make room for it.
    if one["target"] is not None and low < one["target"] < high:
        axes.axhline(one["target"], color=QUIET, linestyle="--", linewidth=1, zorder=1)
        axes.annotate(
            f"target {one['target']:g}",
            (0.995, one["target"]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=9,
            color=QUIET,
        )


def _legend(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Name the beaten configurations below the axes; the front has labels."""
    for row in (row for row in rows if not row["front"]):
        color, symbol = look(row["style"])
        label = _short(row["label"], LONGEST_LEGEND)
        axes.plot([], [], SYMBOLS[symbol], color=color, mfc=BEATEN, label=label)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.11))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _has_legend(one: dict[str, Any]) -> bool:
    """Tell whether a legend names the beaten configurations; of more, labels name what they can."""
    return 0 < sum(not row["front"] for row in one["configurations"]) <= len(COLORS)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return row["bytes"]["mean"], row["score"]["mean"]


def _limit(axes: Axes, one: dict[str, Any], front: list[dict[str, Any]]) -> None:
    """Make room for labels above and to the left, and cut off what is far below a crowd."""
    sign = -1 if one["lower_is_better"] else 1  # what is better is higher on the page
    ends = [
        sign * row["score"]["mean"] + side * (row["score"]["sd"] or 0)
        for row in front
        for side in (-1, 1)
    ]
    least = min(sign * row["score"]["mean"] for row in one["configurations"])
    lowest = min(ends)
    cut = lowest - 0.25 * max(max(ends) - lowest, 0.05)
    far = sum(sign * row["score"]["mean"] < cut for row in one["configurations"])
    if len(one["configurations"]) <= len(COLORS) or far > len(one["configurations"]) / 3:
        lowest = min(least, lowest)
    height = max(max(ends) - lowest, 0.05)
    low, high = lowest - 0.25 * height, max(ends) + 0.3 * height
    if least > low - 0.25 * height:
        low = min(low, least - 0.05 * height)
    if one["target"] is not None and low > sign * one["target"] > low - height:
        low = sign * one["target"] - 0.1 * height  # near enough to show it
    axes.set_ylim(sign * low, sign * high)
    left, right = axes.get_xlim()
    left /= 1.6
    axes.set_xlim(left, right)
    digits = (1, 2, 3, 5) if right < 100 * left else (1, 3)
    short = right < 10 * left  # a decade has too few ticks then
    axes.xaxis.set_major_locator(MaxNLocator(8) if short else LogLocator(subs=digits))
    below = sum(sign * row["score"]["mean"] < low for row in one["configurations"])
    if below:
        axes.annotate(
            f"{below} more below",
            (0.995, 0.01),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=9,
            color=QUIET,
        )


def _mark(axes: Axes, one: dict[str, Any], references: Mapping[str, str]) -> None:
    """Draw a line at the bytes of each reference, with its name at the foot."""
    for row in one["configurations"]:
        if (name := references.get(row["label"])) is None:
            continue
        axes.axvline(row["bytes"]["mean"], color=QUIET, linestyle=":", linewidth=1.2, zorder=1)
        axes.annotate(
            name,
            (row["bytes"]["mean"], 0.05),  # above what is said of those below
            xycoords=("data", "axes fraction"),
            xytext=(-3, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=9,
            color=QUIET,
        )


def _label(axes: Axes, one: dict[str, Any], canvas: FigureCanvasAgg) -> None:
    """Place labels so that they cover nothing: of the front, and of others where no legend is.

    A label of the front is put above its point if there is room: no beaten configuration is above
    and to the left of the front. The space straight above later points stays free for their
    leaders.
    """
    pixels = axes.transData.transform
    frame = axes.get_window_extent()
    rows = [row for row in one["configurations"] if frame.contains(*pixels(_point(row)))]
    taken = [_box(x - 8, x + 8, y - 8, y + 8) for x, y in (pixels(_point(row)) for row in rows)]
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["front"])
    for row, following in pairwise(front):
        (x, y), (right, up) = pixels(_point(row)), pixels(_point(following))
        taken += [_box(x, right, y - 3, y + 3), _box(right - 3, right + 3, y, up)]
    labels: list[Bbox] = []
    columns = [_box(x - 2, x + 2, y, frame.y1) for x, y in map(pixels, map(_point, front))]
    others = [] if _has_legend(one) else [row for row in rows if not row["front"]]
    for number, row in enumerate([*front, *others]):
        is_front = bool(row["front"])
        font: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold"} if is_front else SMALL
        text = row["label"]
        if not is_front:
            text = _short(text, LONGEST)
        probe = axes.text(0, 0, text, **font)
        extent = probe.get_window_extent(canvas.get_renderer())
        probe.remove()
        x, y = pixels(_point(row))
        obstacles = taken + columns[number + 1 :]
        places = PLACES if is_front else BESIDE
        place = _free(x, y, extent, frame, obstacles, labels, places)
        if place is None:
            continue
        labels.append(place)
        taken += [place, _box(x - 1, x + 1, min(y, place.y0), max(y, place.y0))]
        above = place.y0 > y
        up = place.y0 - y if above else place.y1 - y
        axes.annotate(
            text,
            _point(row),
            xytext=(place.x0 - x, up),
            textcoords="offset pixels",
            va="bottom" if above else "top",
            color=look(row["style"])[0] if is_front else QUIET,
            zorder=5,
            **font,
        )
        if abs(up) > NEAR:
            axes.annotate(
                "",
                _point(row),
                xytext=(0, up),
                textcoords="offset pixels",
                arrowprops={"arrowstyle": "-", "color": QUIET, "lw": 0.7, "shrinkA": 0},
            )


def _free(
    x: float,
    y: float,
    extent: Bbox,
    frame: Bbox,
    taken: list[Bbox],
    labels: list[Bbox],
    places: Sequence[tuple[bool, int, int]],
) -> Bbox | None:
    """Return a place for a label: near above, near below, or far from its point.

    Parameters
    ----------
    x, y : float
        The point, in pixels.
    extent : Bbox
        The label, somewhere.
    frame : Bbox
        The axes.
    taken : list of Bbox
        What the label may not cover.
    labels : list of Bbox
        What its leader may not cross.
    places : sequence of (bool, int, int)
        See `PLACES`.
    """
    width, height = extent.width, extent.height
    for above, nearest, farthest in places:
        left = max(frame.x0 + 4, x + 6 - width) if above else x - 6
        for far in range(nearest, farthest, 4):
            low = y + far if above else y - far - height
            box = _box(left, left + width, low, low + height)
            leader = _box(x - 1, x + 1, min(y, low), max(y, low))
            inside = box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1
            wide = box.padded(3)
            if inside and not wide.count_overlaps(taken) and not leader.count_overlaps(labels):
                return box
    return None


def _box(left: float, right: float, low: float, high: float) -> Bbox:
    return Bbox([[left, low], [right, high]])
