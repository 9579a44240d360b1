"""Format numbers for people: in logs, on the console, in reports."""

from collections.abc import Callable, Mapping
from typing import Any

LONG = 1e6  # from which a score is written with an exponent
LAST_LINE = "report"  # the last line that a completed run prints starts with this


def size(count: float) -> str:
    """Return bytes as text with three digits: ``36.9 kB`` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a time in seconds as text: ``86.2 s``, below a second ``58 ms``."""
    return f"{seconds:.1f} s" if seconds >= 1 or seconds == 0 else f"{1000 * seconds:.0f} ms"


def title(metric: str) -> str:
    """Return a metric's name as it is printed."""
    return metric.upper() if metric == "anls" else metric


def score(metric: str, value: float) -> str:
    """Return a score as text; accuracy in percent, and what is very large with four digits."""
    if metric == "accuracy":
        return f"{100 * value:.2f} %"
    # A model that diverged has a perplexity of up to 1e300.
    return f"{value:.4f}" if abs(value) < LONG else f"{value:.3e}"


def spread(values: Mapping[str, Any], text: Callable[[float], str]) -> str:
    """Return ``mean ± standard deviation``, the mean alone of one value, or "-" without values.

    Parameters
    ----------
    values : mapping
        See ``fl_app.report.comparison.spread``.
    text : callable
        Formats a number.
    """
    if values["mean"] is None:
        return "-"
    return text(values["mean"]) + ("" if values["sd"] is None else f" ± {text(values['sd'])}")


def until_target(row: Mapping[str, Any], target: float | None) -> str:
    """Return the bytes until a configuration met the target, or by how many seeds it was missed.

    It is "-" where there was no target to miss.

    Parameters
    ----------
    row : mapping
        See ``fl_app.report.comparison.configuration``.
    target : float or None
        The score to reach.
    """
    met, seeds = row["bytes_to_target"], row["aiming"]
    if target is None or not seeds:
        return "-"
    missed = seeds - len(met["values"])
    return f"missed by {missed} of {seeds} seeds" if missed else spread(met, size)


def is_rehearsal(spent: dict[str, Any]) -> bool:
    """Tell whether anyone who knows a run's configuration can remove its noise."""
    return bool(spent["noise"] == "seeded")


def guarantee(spent: dict[str, Any]) -> str:
    """Return, as text, the privacy that a run has cost its worst-off client.

    For a rehearsal the text says that it protects nobody.
    """
    said = (
        f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:.2g} of one {spent['unit']}, "
        f"noise {spent['noise_multiplier']:.3g}"
    )
    if is_rehearsal(spent):
        return (
            f"a rehearsal, which protects nobody: {said}, drawn from the run's seed; anyone who "
            "knows the configuration can remove it"
        )
    return f"{said} ({spent['noise']})"
