"""Values to multiples of a step, as symbols, and back."""

import numpy as np

from fl_app.codecs.base import WireError
from fl_app.codecs.parts import lane_sums, zigzag
from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.parts.groups import CHUNK, look_up
from fl_app.codecs.parts.lane_sums import dither, dither_of
from fl_app.codecs.parts.uniform_step import LARGEST, Draw, Floats
from fl_app.codecs.parts.zigzag import ESCAPE, Escapes, Levels, Symbols


def quantize(x: Floats, step: float, draw: Draw | None) -> tuple[Symbols, Escapes]:
    """Return the symbols of ``round(x / step)``, or of ``round(x / step + u)``, and their escapes.

    Parameters
    ----------
    draw : uint32 [n], optional
        The draws that the dither u is made of.
    """
    symbols = np.empty(x.size, np.uint8)
    draws = np.empty(0, np.uint32) if draw is None else draw
    if not _quantize(x, 1 / step, draws, symbols):
        return symbols, np.empty(0, np.uint32)
    at = np.flatnonzero(symbols == ESCAPE)
    levels = _levels(x[at], 1 / step, None if draw is None else draw[at])
    return symbols, zigzag.encode(levels)[1]


def quantize_numpy(x: Floats, inverse: float, draw: Draw, symbols: Symbols) -> int:
    """Write the symbols; return how many are escapes."""
    for i in range(0, x.size, CHUNK):
        part = slice(i, i + CHUNK)
        levels = _levels(x[part], inverse, draw[part] if draw.size else None)
        symbols[part] = zigzag.encode(levels)[0]
    return int(np.count_nonzero(symbols == ESCAPE))


def _levels(x: Floats, inverse: float, draw: Draw | None) -> np.ndarray:
    a = np.multiply(x, inverse, dtype=np.float64)
    if draw is not None:
        a += dither(draw)
    return np.rint(a, out=a).astype(np.int32)


@jit
def _quantize(x, inverse, draw, symbols):
    escapes = 0
    for i in range(x.size):
        a = np.float64(x[i]) * inverse
        if draw.size:
            a += np.float64(dither_of(draw[i]))
        level = np.int32(np.rint(a))
        number = np.int32((level << np.int32(1)) ^ (level >> np.int32(31)))
        escapes += 1 if number >= ESCAPE else 0
        symbols[i] = min(number, np.int32(ESCAPE))
    return escapes


if numba is None:
    _quantize = quantize_numpy


def squared_error(
    x: Floats, symbols: Symbols, escapes: Escapes, step: float, shift: float, draw: Draw | None
) -> float:
    """Return the square error of x in what `dequantize` makes of its symbols."""
    if _is_plain(escapes, step, draw):
        return lane_sums.squared_loss(x, symbols, values(step, shift))
    decoded = np.empty_like(x)
    dequantize(symbols, escapes, step, shift, draw, decoded)
    return lane_sums.squared_distance(x, decoded)


def _is_plain(escapes: Escapes, step: float, draw: Draw | None) -> bool:
    """Return whether every symbol stands for one value, far from the end of float32."""
    return draw is None and not escapes.size and not _near_the_end(step)


def _near_the_end(step: float) -> bool:
    # An honest step is at most LARGEST and no level more than a step from its value.
    return step * 2.0**33 > LARGEST


def values(step: float, shift: float) -> Floats:
    """Return the value ``step (q - shift sign(q))`` of each symbol but `ESCAPE`."""
    return _shifted(zigzag.LEVELS, step, shift).astype(np.float32)


def _shifted(levels: Levels, step: float, shift: float) -> Levels:
    """Return the values of levels, in float64."""
    return step * (levels - shift * np.sign(levels))


def dequantize(
    symbols: Symbols, escapes: Escapes, step: float, shift: float, draw: Draw | None, out: Floats
) -> Escapes:
    """Write ``step (q - shift sign(q))`` or ``step (q - u)`` to out; return the escapes left over.

    Parameters
    ----------
    escapes : uint32
        Those of these symbols, and of others after them.
    draw : uint32 [n], optional
        The draws that the dither u is made of; out may be their memory.

    Raises
    ------
    WireError
        A value beyond float32, by more than the rounding of its largest values.
    """
    if _is_plain(escapes, step, draw):
        look_up(values(step, shift), symbols, out)
        return escapes
    shifted = _shifted(zigzag.LEVELS, step, shift)
    for i in range(0, out.size, CHUNK):
        part = slice(i, i + CHUNK)
        found = shifted[symbols[part]]
        if escapes.size:
            at = np.flatnonzero(symbols[part] == ESCAPE)
            found[at] = _shifted(zigzag.escaped(escapes[: at.size]), step, shift)
            escapes = escapes[at.size :]
        if draw is not None:
            found -= step * dither(draw[part]).astype(np.float64)
        if _near_the_end(step):
            if max(found.max(), -found.min()) > 2 * LARGEST:
                raise WireError("uniform: a value beyond float32")
            np.clip(found, -LARGEST, LARGEST, out=found)
        out[part] = found
    return escapes
