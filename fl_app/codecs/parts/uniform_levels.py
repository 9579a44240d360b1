"""Values to multiples of a step, as symbols, and back."""

import numpy as np

from fl_app.codecs.base import WireError
from fl_app.codecs.parts import uniform_step as steps
from fl_app.codecs.parts import zigzag
from fl_app.codecs.parts.groups import CHUNK
from fl_app.codecs.parts.uniform_step import LARGEST, Draw, Floats
from fl_app.codecs.parts.zigzag import Escapes, Symbols


def quantize(x: Floats, step: float, draw: Draw | None) -> tuple[Symbols, Escapes]:
    """Return the symbols of ``round(x / step)``, or of ``round(x / step + u)``, and their escapes.

    Parameters
    ----------
    draw : uint32 [n], optional
        The draws that the dither u is made of.
    """
    parts = [zigzag.encode(np.rint(a, out=a).astype(np.int32)) for a in steps.scaled(x, step, draw)]
    symbols, escapes = zip(*parts, strict=True)
    return np.concatenate(symbols), np.concatenate(escapes)


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
    shifted = step * (zigzag.LEVELS - shift * np.sign(zigzag.LEVELS))
    # An honest step is at most LARGEST and no level more than a step from its value.
    near_the_end = step * 2.0**33 > LARGEST
    for i in range(0, out.size, CHUNK):
        part = slice(i, i + CHUNK)
        values = shifted[symbols[part]]
        if escapes.size:
            at = np.flatnonzero(symbols[part] == zigzag.ESCAPE)
            levels = zigzag.escaped(escapes[: at.size])
            values[at] = step * (levels - shift * np.sign(levels))
            escapes = escapes[at.size :]
        if draw is not None:
            values -= step * steps.dither(draw[part]).astype(np.float64)
        if near_the_end:
            if max(values.max(), -values.min()) > 2 * LARGEST:
                raise WireError("uniform: a value beyond float32")
            np.clip(values, -LARGEST, LARGEST, out=values)
        out[part] = values
    return escapes
