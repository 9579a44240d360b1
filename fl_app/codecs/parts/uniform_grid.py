"""The step of values that are multiples of one already: of trained grids, and of relayed updates.

A codec's decoded values, and those of quantization-aware training, are multiples of a step. Rounded
to another one they would lose a second time. What is added to a start and taken from it again is a
multiple only to the rounding of float32; the step is found all the same where it has at most 11
significant bits, as all steps have that an error asks for.
"""

import math

import numpy as np

from fl_app.codecs.parts.uniform_step import Floats, short

MOST = 127
"""The largest level of a grid that is looked for."""
FIRST = 8
"""The largest level that the least value may have."""
NEAR = 2.0**-8
"""Steps by which a value may be off its multiple."""
SAMPLE = 1 << 12
"""Values that a step has to fit before all of them are looked at."""


@np.errstate(over="ignore")  # a multiple that is no float32 is none of the values
def found(x: Floats, most: int = MOST) -> float:
    """Return the widest step of which all values are multiples, 0 if none is found.

    The least value may be any of the first `FIRST` multiples. Of values that are multiples to
    rounding alone it has to be the first one.

    Parameters
    ----------
    x : float32 [n]
        Finite values.
    most : int
        The largest level that may be needed.
    """
    size = np.abs(x[x != 0])
    if not size.size:
        return 0.0
    least, peak = float(size.min()), float(size.max())
    some = np.unique(size[:: max(1, size.size // SAMPLE)])
    for level in range(1, FIRST + 1):
        guess = least / level
        if peak > (most + NEAR) * guess:
            break
        # Where values are exact, so is the quotient; the other step is for rounded ones.
        for step in (float(np.float32(guess)), _refined(some, guess)):
            if step and _fits(some, step, most) and _fits(size, step, most):
                return step
    return 0.0


def _refined(size: Floats, guess: float) -> float:
    """Return the step of least squares near a guess, of 11 significant bits."""
    step = guess
    for most in (8, MOST):  # a guess that is a little off is right for small levels
        near = size <= most * step * (1 + NEAR)
        values = size[near].astype(np.float64)
        levels = np.rint(values / step)
        if not levels.any():
            return 0.0
        step = math.fsum(values * levels) / math.fsum(levels * levels)
    return short(step)


def _fits(size: Floats, step: float, most: int) -> bool:
    """Tell whether values are multiples of a step, to float32 or, of a short step, to `NEAR`."""
    levels = np.rint(size / np.float64(step))
    if levels.max() > most:
        return False
    if np.array_equal((levels * step).astype(np.float32), size):
        return True
    return short(step) == step and bool(np.all(np.abs(size - levels * step) <= NEAR * step))
