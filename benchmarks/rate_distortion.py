"""Bits against error: every codec over its parameter, with the rate-distortion bound.

Bits per value are those of the whole frame, the error is relative in L2. The bound is the least
error of any code at that rate for independent Gaussian values, ``D(R) = 2**-R`` (Shannon; relative
L2, not squared). Of all values of one variance Gaussian ones need the most bits, so that real
changes, whose variance differs from tensor to tensor, may lie below the bound.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import senders
from fl_app.codecs import (
    Codec,
    Tree,
    chain,
    entropy,
    fp4,
    int8,
    kmeans,
    low_rank,
    nf4,
    random_k,
    sign,
    ternary,
    top_k,
    uniform,
)
from fl_app.report.picture import STYLE
from fl_app.tree import scalars

GOALS_SIDE = 1000
"""The goals are for this number squared of values."""
GOALS = {0.092: 3.75, 0.5: 1.35}
"""Relative error: the most bits per value of entropy(uniform) on Gaussian values."""

COLUMNS = ("source", "family", "bits_per_value", "relative_error", "excess_bits", "codec")


@dataclass(frozen=True)
class Family:
    """Codecs that differ in one parameter, and how they are drawn.

    Attributes
    ----------
    codecs : list of Codec
        In any order.
    color, marker : str
        Of matplotlib.
    hollow : bool
        Whether markers are hollow and without a line; for codecs that are not entropy coded.
    """

    codecs: list[Codec]
    color: str
    marker: str
    hollow: bool = False


@dataclass(frozen=True)
class Point:
    """One codec on one source."""

    source: str
    family: str
    bits: float
    error: float
    codec: Codec

    @property
    def excess(self) -> float:
        """Bits above the bound at this error; negative only where values are not Gaussian."""
        return self.bits - max(0.0, -math.log2(self.error)) if self.error else math.nan


def families() -> dict[str, Family]:
    """Return every family of codecs by its name, in the order of the legend."""
    errors = (0.01, 0.02, 0.04, 0.07, 0.092, 0.13, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    fractions = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    blocks = (16, 32, 64, 128, 256, 1024, 4096)
    centroids = (2, 3, 4, 6, 8, 12, 16)
    blockwise = {
        "nf4": ([nf4(b) for b in blocks] + [nf4(scale="int8")], "#f58518", "s"),
        "fp4": ([fp4(b) for b in blocks], "#9d755d", "D"),
        "int8": ([int8(b) for b in blocks], "#79706e", "P"),
    }
    fine = uniform(error=0.2)
    found = {
        "uniform, entropy": Family([entropy(uniform(error=e)) for e in errors], "#4c78a8", "o"),
        "uniform, fixed bits": Family([uniform(bits=b) for b in range(2, 9)], "#4c78a8", "o", True),
        "uniform dithered, entropy": Family(
            [entropy(uniform(error=e, dither=True)) for e in errors], "#72b7b2", "v"
        ),
        "kmeans, entropy": Family([entropy(kmeans(c)) for c in centroids], "#54a24b", "^"),
        "kmeans": Family([kmeans(c) for c in (2, 4, 16, 256)], "#54a24b", "^", True),
        "sign": Family([sign(s) for s in ("tensor", 64, 16)], "#e45756", "X", True),
        "ternary": Family([ternary()], "#b279a2", "h", True),
        "ternary, entropy": Family([entropy(ternary())], "#b279a2", "h"),
        "top_k uniform, entropy": Family(
            [entropy(chain(top_k(f), fine)) for f in fractions], "#222222", "*"
        ),
        "top_k nf4, entropy": Family(
            [entropy(chain(top_k(f), nf4())) for f in fractions], "#888888", "*"
        ),
        "random_k nf4": Family(
            [chain(random_k(f), nf4()) for f in fractions], "#ff9da6", "x", True
        ),
        "low_rank uniform, entropy": Family(
            [entropy(chain(low_rank(r), fine)) for r in (1, 2, 4)], "#b8a100", "p"
        ),
    }
    for name, (codecs, color, marker) in blockwise.items():
        found[name] = Family(codecs, color, marker, True)
        found[f"{name}, entropy"] = Family([entropy(c) for c in codecs], color, marker)
    return found


def gaussian(side: int) -> Tree:
    """Return ``side**2`` Gaussian values, one square matrix."""
    return {"x": np.random.default_rng(0).standard_normal((side, side), np.float32)}


def measure(source: str, tree: Tree) -> list[Point]:
    """Return the points of all families on one source."""
    points = []
    for name, family in families().items():
        for codec in family.codecs:
            sender = senders.ours(name, codec, tree)
            message = sender.encode()
            bits = 8 * sender.nbytes(message) / scalars(tree)
            error = senders.relative_error(tree, sender.arrays(sender.decode(message)))
            points.append(Point(source, name, bits, error, codec))
    return points


def write_csv(path: Path, points: list[Point]) -> None:
    """Write one row per codec and source."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for p in points:
            numbers = (f"{x:.6g}" for x in (p.bits, p.error, p.excess))
            writer.writerow([p.source, p.family, *numbers, json.dumps(p.codec.spec)])


def draw(folder: Path, points: list[Point]) -> None:
    """Write rate_distortion.svg and .png, one panel per source."""
    sources = list(dict.fromkeys(p.source for p in points))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 5.4 * len(sources), 7), layout="constrained")
        panels = figure.subplots(1, len(sources), sharey=True, squeeze=False)[0]
        for panel, source in zip(panels, sources, strict=True):
            _panel(panel, source, [p for p in points if p.source == source])
        panels[0].set_ylabel("relative L2 error")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False
        )
        figure.savefig(folder / "rate_distortion.svg", metadata={"Date": None})
        figure.savefig(folder / "rate_distortion.png", dpi=110)


def _panel(axes: Axes, source: str, points: list[Point]) -> None:
    """Draw the points of one source, and those below 2 bits again in an inset."""
    inset = axes.inset_axes((0.53, 0.62, 0.47, 0.37))
    for part in (axes, inset):
        _lines(part, points)
    axes.set(
        title=source, xlabel="bits per value, whole frame", xlim=(0, 9), ylim=(0.004, 1.15),
        yticks=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
    )  # fmt: skip
    inset.set(xlim=(0, 2.1), ylim=(0.35, 1.02), yticks=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    inset.tick_params(labelsize=8)
    (mark,) = (p for p in points if p.codec.spec == nf4().spec)
    axes.plot(
        mark.bits, mark.error, marker="o", color="black", markersize=14, markerfacecolor="none"
    )
    axes.annotate(
        f"NF4, block 64:\n{mark.bits:.2f} bits, {mark.error:.3f}",
        (mark.bits, mark.error),
        xytext=(5.4, 0.045),
        arrowprops={"arrowstyle": "-", "shrinkB": 7},
        fontsize=9,
    )


def _lines(axes: Axes, points: list[Point]) -> None:
    rates = np.array([0.0, 9.0])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.fill_between(rates, 2**-rates, 1e-4, color="black", alpha=0.05, lw=0)
    axes.plot(rates, 2**-rates, color="black", lw=1.2, label="bound for Gaussian values, $2^{-R}$")
    for name, family in families().items():
        line = sorted((p.bits, p.error) for p in points if p.family == name)
        axes.plot(
            *zip(*line, strict=True),
            color=family.color,
            marker=family.marker,
            markerfacecolor="white" if family.hollow else family.color,
            linestyle="" if family.hollow else "-",
            linewidth=1,
            label=name,
        )


def goals(source: str, points: list[Point]) -> str:
    """Return a line per goal: the measured bits, the goal, and whether it is met."""
    lines = []
    for error, most in GOALS.items():
        spec = entropy(uniform(error=error)).spec
        (p,) = (p for p in points if p.source == source and p.codec.spec == spec)
        met = "met" if p.bits <= most and p.error <= error else "MISSED"
        lines.append(
            f"entropy(uniform {error}) on {source}: {p.bits:.3f} bits per value at relative"
            f" error {p.error:.4f}; goal: at most {most:.2f} at {error}: {met}"
        )
    return "\n".join(lines)


def run(out: Path, side: int, real: dict[str, Tree]) -> None:
    """Measure all sources; write rate_distortion.csv, .svg and .png and print the goals."""
    source = f"{side**2:,} Gaussian values"
    sources = {source: gaussian(side)} | real
    points = [point for name, tree in sources.items() for point in measure(name, tree)]
    write_csv(out / "rate_distortion.csv", points)
    draw(out, points)
    if side == GOALS_SIDE:
        print(f"\n{goals(source, points)}")
    else:
        print(f"\nThe goals are for {GOALS_SIDE**2:,} values, so they are not compared here.")
