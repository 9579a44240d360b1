"""The step of a uniform quantizer: for an error, for a number of bits, or as in AQUILA.

Everything is float64 and summed in a fixed order, so that every machine finds the same step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts import lane_sums

Floats = NDArray[np.float32]
Draw = NDArray[np.uint32]

LARGEST = float(np.finfo(np.float32).max)
TINIEST = 2.0**-149
"""The largest and the least positive float32."""
MOST_LEVEL = 2**29
"""The largest level, chosen so that its number fits an int32."""
SAMPLE = 1 << 16
"""Values that the search for a step starts with."""


def largest(x: Floats) -> float:
    """Return ``max |x|``, 0 of nothing."""
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def norm(x: Floats) -> float:
    """Return the L2 norm of x."""
    return math.sqrt(lane_sums.squared_norm(x))


def for_bits(x: Floats, bits: int, dither: bool) -> float:
    """Return the narrowest step for which all levels fit: ``max|x| / (2**(bits-1) - 1)``.

    With dither, which may move a value by half a step, it is ``max|x| / (2**(bits-1) - 1.5)``.
    """
    levels = 2 ** (bits - 1) - 1
    return _above(largest(x) / (levels - 0.5 if dither else levels))


def aquila(x: Floats) -> float:
    """Return AQUILA's step ``2 R / (2**b - 1)``, ``b = ceil(log2(R sqrt(n) / |x|_2 + 1))``.

    R is ``max |x|``. The equation is reconstructed, not checked against the paper. b is at least 2:
    at b = 1, for values of one magnitude, all levels of a mid-tread quantizer would be 0. All
    levels are within 2**(b-1) - 1, since R is just less than 2**(b-1) - 1/2 steps.
    """
    peak = largest(x)
    if not peak:
        return 0.0
    bits = max(2, math.ceil(math.log2(peak * math.sqrt(x.size) / norm(x) + 1)))
    return _above(2 * peak / (2**bits - 1))


def for_error(x: Floats, error: float, draw: Draw | None, centroid: bool) -> tuple[float, float]:
    """Return (almost) the widest step for which ``|decoded - x|_2 <= error |x|_2``, and its shift.

    The search starts from ``step**2 / 12``, the square error of many small steps, on a sample of x.

    Parameters
    ----------
    draw : uint32 [n], optional
        The draws of the dither.
    centroid : bool
        Whether levels are shifted to the mean of their cells.
    """
    peak, length = largest(x), norm(x)
    if not peak:
        return 0.0, 0.0
    step = error * math.sqrt(12 / x.size) * length
    stride = x.size // SAMPLE
    if stride > 1 and (part_length := norm(part := np.ascontiguousarray(x[::stride]))):
        some = None if draw is None else draw[::stride]
        step, _ = _widest(
            lambda s: distortion(part, s, some, centroid), error * part_length, step, peak
        )
    return _widest(lambda s: distortion(x, s, draw, centroid), error * length, step, peak)


def _widest(
    at: Callable[[float], tuple[float, float]], error: float, step: float, peak: float
) -> tuple[float, float]:
    """Solve ``at(step)[0] = error`` by the secant method on logarithms, within a bracket.

    The step returned has 0.997 to 0.9999 of the error, which leaves room for rounding to float32,
    unless the error jumps, as that of few values does.

    Parameters
    ----------
    at : callable
        ``at(step) -> (error, shift)``.
    error : float
        The error to find, in the same units.
    step : float
        The first guess.
    peak : float
        max |x|.

    Returns
    -------
    float, float
        The step and its shift.
    """
    low, high = narrowest(peak), min(4 * peak, LARGEST)  # at high all levels are 0
    best = low, 0.0
    slope, last = 1.0, (0.0, 0.0)
    for _ in range(60):
        step = min(max(short(step), low), high)
        found, shift = at(step)
        if found > 0.9999 * error:
            high = step
        else:
            low, best = step, (step, shift)
            if found >= 0.997 * error:
                break
        if high <= 1.001 * low or high <= TINIEST:
            break
        if min(found, last[1]) > 0 and found != last[1] and step != last[0]:
            slope = math.log(found / last[1]) / math.log(step / last[0])
        last = step, found
        if found:
            step *= (0.9985 * error / found) ** (1 / min(max(slope, 0.2), 2.0))
        if not (found and low < step < high):
            step = math.sqrt(low) * math.sqrt(high)
    return best


def narrowest(peak: float) -> float:
    """Return the narrowest step for ``max |x| = peak``: its largest level is `MOST_LEVEL`."""
    return _above(peak / MOST_LEVEL)


def distortion(x: Floats, step: float, draw: Draw | None, centroid: bool) -> tuple[float, float]:
    """Return ``|decoded - x|_2`` before values are rounded to float32, and the shift.

    The shift, 0 unless ``centroid``, is the distance in steps, towards zero, of the mean of values
    from the middle of their cell, over all cells but that of zero.
    """
    squares, outside, nonzero = lane_sums.roundings(x, 1 / step, draw)
    shift = min(max(-outside / nonzero, -0.5), 0.5) if nonzero and centroid else 0.0
    return step * math.sqrt(max(squares - nonzero * shift**2, 0.0)), float(np.float32(shift))


def _above(step: float) -> float:
    """Return the next float32 above, so that x / step is not rounded to a further level."""
    rounded = np.float32(min(step, LARGEST))
    return float(np.nextafter(rounded, np.float32(LARGEST))) if step else 0.0


def short(step: float) -> float:
    """Return the step rounded to 11 bits, so that logarithms of all machines give the same."""
    mantissa, exponent = math.frexp(step)
    return float(np.float32(min(math.ldexp(round(mantissa * 2048) / 2048, exponent), LARGEST)))
