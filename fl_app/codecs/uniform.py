"""Uniform quantization with steps as wide as an error allows, or as fit a number of bits."""

from __future__ import annotations

import numpy as np

from fl_app.codecs.base import Codec, State, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import draws, groups, zigzag
from fl_app.codecs.parts import uniform_step as steps
from fl_app.codecs.parts.groups import Scope
from fl_app.codecs.parts.uniform_levels import _dequantize, _quantize
from fl_app.codecs.parts.uniform_step import Draw, Floats
from fl_app.codecs.parts.zigzag import Escapes, Symbols
from fl_app.codecs.registry import register
from fl_app.codecs.streams.bits import pack
from fl_app.tree import Tree, split


@register("uniform")
def uniform(
    error: float | None = None,
    bits: int | None = None,
    adaptive: bool = False,
    dither: bool = False,
    centroid: bool = True,
    scope: Scope = "tree",
) -> Codec:
    """Every value as the nearest multiple of a step: ``q = round(x / step)``, mid-tread.

    One step for all values minimizes their total square error for the bits that an entropy coder
    then needs: every value that is not too small to send has the same error step**2 / 12, which is
    reverse water-filling. Without one, and with tensors of different size, steps per tensor are
    better. Exactly one of the first three arguments says how wide a step is:

    - ``error``: as wide as ``|decoded - x|_2 <= error |x|_2`` allows, to about 1 %.
    - ``bits``: ``max|x| / (2**(bits-1) - 1)``, the narrowest of which all levels have such symbols.
    - ``adaptive``: ``2 R / (2**b - 1)`` with ``b = max(2, ceil(log2(R sqrt(n) / |x|_2 + 1)))`` and
      R = max|x|, AQUILA's choice (as reconstructed, not checked against its paper).

    Decoded is ``step (q - shift sign(q))``. With ``centroid`` the shift moves levels from the
    middle of their cells to the mean of what was rounded to them, all by the same part of a step:
    at equal error it saves 0.16 bits a value at error 0.5 on Gaussian values. Rounding with a dead
    zone instead saves no more, and next to nothing on top. Without it the shift is 0. The mean
    makes the decoded update shorter than the update was; where that is the model itself, not a
    part of an average, the middle may serve better although its error is larger.

    With dither, ``q = round(x / step + u)`` is decoded as ``step (q - u)``, where u is uniform in
    [-1/2, 1/2) and drawn by both sides from a nonce that travels (subtractive dither). The error
    is then uniform and independent of x, so that the mean over draws is x. Rounding at random
    without subtracting u gives the same q, thus the same rate, but twice the square error; it is
    better only for values that are mostly below a twelfth of a step. With dither, a zero is decoded
    as zero only in a group of zeros.

    Sections: step and, with ``centroid``, shift of each group, little-endian float32; the
    nonce, with dither; one symbol per value, 0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ..., of 2 bits
    for ``bits`` 2, 4 bits for 3 and 4, else 8 bits. Without ``bits`` symbol 255 stands for all
    from 255 on, and a last section of variable length has their excess as little-endian uint32.

    Rate: n, n / 2 or n / 4 bytes and 8 per group (4 without shift); 4 more for each level beyond
    127. Behind an ideal order-0 entropy coder, on Gaussian values: 3.70 bits a value for error
    0.092 and 1.25 for 0.5, where 3.44 and 1.00 is the least of any code; less than b if
    ``adaptive``.
    Error: ``step / 2`` per value with dither, else ``step (1/2 + |shift|)`` and in L2 at most that
    of shift 0; and relative L2 at most ``error``, for each group.

    Args:
        error: relative L2 error, in [1e-4, 1).
        bits: 2 to 8.
        adaptive: True for AQUILA's step.
        dither: True for unbiased rounding; the shift is then 0, with ``centroid`` or without.
        centroid: False for decoded values that are multiples of the step.
        scope: what shares a step, the whole "tree" or each "tensor".

    Raises:
        ValueError: arguments other than these.
        CodecError: NaN or Inf.
        WireError: wrong lengths, a step that is negative, NaN or Inf, a shift of more than half,
            a symbol or padding of no meaning, or a value beyond float32.

    Source: Gish and Pierce, Asymptotically efficient quantizing, IEEE T-IT 1968; Schuchman, Dither
    signals, IEEE T-COM 1964; AQUILA, ICLR 2023 submission.
    """
    if [error is not None, bits is not None, adaptive is True].count(True) != 1:
        raise ValueError("uniform: give exactly one of error, bits and adaptive: true")
    if not all(isinstance(flag, bool) for flag in (adaptive, dither, centroid)):
        raise ValueError("uniform: adaptive, dither and centroid must be true or false")
    if error is not None and (type(error) is not float or not 1e-4 <= error < 1):
        raise ValueError(f"uniform: error must be a float from 1e-4 to below 1, got {error!r}")
    if bits is not None and (type(bits) is not int or not 2 <= bits <= 8):
        raise ValueError(f"uniform: bits must be 2 to 8, got {bits!r}")
    groups.check_scope("uniform", scope)

    width = 8 if bits is None else 2 if bits == 2 else 4 if bits <= 4 else 8
    most = 255 if bits is None else 2**bits - 2
    centroid = centroid and not dither
    columns = 2 if centroid else 1

    def streams(ref: Tree) -> tuple[Stream, ...]:
        symbols = groups.symbol_stream(ref, width)
        return (
            Stream(8, 4 * columns * len(groups.sizes(ref, scope))),
            *([draws.NONCE] if dither else []),
            symbols,
            *([Stream(8, 4 * symbols.count, variable=True)] if bits is None else []),
        )

    def choose(x: Floats, draw: Draw | None) -> tuple[float, float]:
        if error is not None:
            return steps.for_error(x, error, draw, centroid)
        step = steps.aquila(x) if bits is None else steps.for_bits(x, bits, dither)
        return step, steps.distortion(x, step, draw, True)[1] if step and centroid else 0.0

    def encode_group(x: Floats, draw: Draw | None) -> tuple[list[float], Symbols, Escapes]:
        step, shift = choose(x, draw)
        if not step:
            return [0.0] * columns, np.zeros(x.size, np.uint8), np.empty(0, np.uint32)
        symbols, escapes = _quantize(x, step, draw)
        if error is not None:
            decoded = np.empty_like(x)
            _dequantize(symbols, escapes, step, shift, draw, decoded)
            if steps.norm(x, decoded) > error * steps.norm(x):
                # So few values, or so near to 0, that no wider step will do.
                step, shift = steps.narrowest(steps.largest(x)), 0.0
                symbols, escapes = _quantize(x, step, draw)
        return [step, shift][:columns], symbols, escapes

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        x = groups.flatten(tree, ref)
        nonce, draw = [], None
        if dither:
            written, state = draws.next_nonce(state)
            nonce, draw = [written], draws.integers(written, x.size)
        header = np.zeros((len(groups.sizes(ref, scope)), columns), "<f4")
        symbols, escapes = np.empty(x.size, np.uint8), [np.empty(0, np.uint32)]
        for i, at in enumerate(groups.slices(ref, scope)):
            part = encode_group(x[at], None if draw is None else draw[at])
            header[i], symbols[at] = part[:2]
            escapes.append(part[2])
        excess = [np.concatenate(escapes).astype("<u4", copy=False).tobytes()]
        return Wire(
            (header.tobytes(), *nonce, pack(symbols, width), *(excess if bits is None else []))
        ), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        n = sum(r.size for r in ref.values())
        header = np.frombuffer(wire.sections[0], "<f4").reshape(-1, columns)
        read_steps = groups.read_scales(header[:, 0].tobytes())
        shifts = header[:, 1] if columns == 2 else np.zeros_like(read_steps)
        if not np.all(np.abs(shifts) <= 0.5):
            raise WireError("uniform: a shift of more than half a step")
        symbols = groups.read_symbols(wire.sections[2 if dither else 1], n, width, most)
        escapes = np.empty(0, np.uint32)
        if bits is None:
            if len(wire.sections[-1]) != 4 * np.count_nonzero(symbols == zigzag.ESCAPE):
                raise WireError("uniform: not as many large levels as symbols that stand for one")
            escapes = np.frombuffer(wire.sections[-1], "<u4").astype(np.uint32, copy=False)
        draw = draws.integers(wire.sections[1], n) if dither else None
        # Each chunk of values takes the place of its draws.
        out = np.empty(n, np.float32) if draw is None else draw.view(np.float32)
        for at, step, shift in zip(groups.slices(ref, scope), read_steps, shifts, strict=True):
            part = None if draw is None else draw[at]
            escapes = _dequantize(symbols[at], escapes, float(step), float(shift), part, out[at])
        return split(out, ref)

    return Codec(
        draws.init if dither else stateless,
        encode,
        decode,
        2 + dither + (bits is None),
        streams,
    )
