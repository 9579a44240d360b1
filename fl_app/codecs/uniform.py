"""Uniform quantization with steps as wide as an error allows, or as fit a number of bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import Codec, State, Stream, Wire, WireError, stateless
from fl_app.codecs.checks import check_sections
from fl_app.codecs.parts import draws, groups, uniform_grid, zigzag
from fl_app.codecs.parts import uniform_levels as levels
from fl_app.codecs.parts import uniform_step as steps
from fl_app.codecs.parts.groups import Scope
from fl_app.codecs.parts.uniform_step import Draw, Floats
from fl_app.codecs.parts.zigzag import Escapes, Symbols
from fl_app.codecs.registry import register
from fl_app.codecs.streams.bits import pack
from fl_app.tree import Tree, scalars, split


@register("uniform", later=["grid"])
def uniform(
    error: float | None = None,
    bits: int | None = None,
    adaptive: bool = False,
    dither: bool = False,
    centroid: bool = True,
    scope: Scope = "tree",
    grid: bool = False,
) -> Codec:
    """Send every value as the nearest multiple of a step: ``q = round(x / step)``, mid-tread.

    Behind an entropy coder, one step for all values has the least total square error for its bits:
    every value that is not too small to send has the same error step**2 / 12, which is reverse
    water-filling. Without an entropy coder, steps per tensor are better where magnitudes differ
    from tensor to tensor. Exactly one of the first three arguments says how wide a step is:

    - ``error``: as wide as ``|decoded - x|_2 <= error |x|_2`` allows, to about 1 %.
    - ``bits``: ``max|x| / (2**(bits-1) - 1)``, the narrowest step whose levels all fit the bits.
    - ``adaptive``: ``2 R / (2**b - 1)`` with ``b = max(2, ceil(log2(R sqrt(n) / |x|_2 + 1)))`` and
      R = max|x|, AQUILA's choice (as reconstructed, not checked against its paper).

    Decoded is ``step (q - shift sign(q))``. With ``centroid`` the shift moves levels from the
    middle of their cells to the mean of the values rounded to them, all by the same part of a step:
    at error 0.5 on Gaussian values it saves 0.16 bits a value. Rounding with a dead zone instead
    saves no more, and next to nothing in addition. Without ``centroid`` the shift is 0. The mean
    makes the decoded update shorter than the update; where that update is the new model, not a
    part of an average, the middle may serve better although its error is larger.

    With dither, ``q = round(x / step + u)`` is decoded as ``step (q - u)``, where u is uniform in
    [-1/2, 1/2) and drawn by both sides from a nonce that travels (subtractive dither). The error
    is then uniform and independent of x, so that the mean over draws is x. Rounding at random
    without subtracting u gives the same q, thus the same rate, but twice the square error; it is
    better only for values that are mostly below a twelfth of a step. With dither, a zero is decoded
    as zero only in a group of zeros.

    With ``grid``, values that are multiples of a step already, as after quantization-aware
    training or in an update that is relayed, keep that step and lose nothing: see
    ``fl_app.codecs.parts.uniform_grid``. So an update without ``centroid`` that was decoded and is
    encoded again stays as it is. All other values are encoded as without it.

    Sections: step and, with ``centroid``, shift of each group, little-endian float32; with
    ``dither`` the nonce; one symbol per value, 0, -1, 1, -2, 2, ... numbered 0, 1, 2, 3, 4, ..., of
    2 bits for ``bits`` 2, 4 bits for 3 and 4, else 8 bits. Without ``bits`` symbol 255 stands for
    all numbers from 255 on, and a last section of variable length holds each of these numbers, less
    255, as little-endian uint32.

    Rate: n, n / 2 or n / 4 bytes and 8 per group (4 without shift); 4 more for each level beyond
    127. Behind an ideal order-0 entropy coder, on Gaussian values: 3.70 bits a value for error
    0.092 and 1.25 for 0.5, where 3.44 and 1.00 is the least of any code; less than b if
    ``adaptive``.
    Error: ``step / 2`` per value with dither, else ``step (1/2 + |shift|)`` and in L2 at most that
    of shift 0; and relative L2 at most ``error``, for each group.

    Parameters
    ----------
    error : float, optional
        Relative L2 error, in [1e-4, 1).
    bits : int, optional
        2 to 8.
    adaptive : bool
        True for AQUILA's step.
    dither : bool
        True for unbiased rounding; the shift is then 0, with ``centroid`` or without.
    centroid : bool
        False for decoded values that are multiples of the step.
    scope : str
        What shares a step, the whole "tree" or each "tensor".
    grid : bool
        True to look for a step in the values first; not with dither.

    Raises
    ------
    ValueError
        Arguments other than these.
    CodecError
        In encode: NaN or Inf.
    WireError
        In decode: wrong lengths, a step that is negative, NaN or Inf, a shift of more than half, a
        symbol or padding of no meaning, or a value beyond float32.

    References
    ----------
    Gish and Pierce, Asymptotically efficient quantizing, IEEE T-IT 1968; Schuchman, Dither signals,
    IEEE T-COM 1964; AQUILA, ICLR 2023 submission.
    """
    _check_arguments(error, bits, adaptive, dither, centroid, grid)
    groups.check_scope("uniform", scope)
    quantizer = _Quantizer(error, bits, dither, centroid and not dither, grid)

    def streams(ref: Tree) -> tuple[Stream, ...]:
        symbols = groups.symbol_stream(ref, quantizer.width, levels=True)
        return (
            Stream(8, 4 * quantizer.columns * len(groups.sizes(ref, scope))),
            *([draws.NONCE] if dither else []),
            symbols,
            *([Stream(8, 4 * symbols.count, variable=True)] if quantizer.escapes else []),
        )

    def encode(tree: Tree, state: State, ref: Tree) -> tuple[Wire, State]:
        x = groups.flatten(tree, ref)
        nonce, draw = [], None
        if dither:
            written, state = draws.next_nonce(state)
            nonce, draw = [written], draws.integers(written, x.size)
        header, symbols, escapes = [], np.empty(x.size, np.uint8), [np.empty(0, np.uint32)]
        for at in groups.slices(ref, scope):
            group = quantizer.encode(x[at], None if draw is None else draw[at])
            header.append([group.step, group.shift][: quantizer.columns])
            symbols[at] = group.symbols
            escapes.append(group.escapes)
        sections = [np.array(header, "<f4").tobytes(), *nonce, pack(symbols, quantizer.width)]
        if quantizer.escapes:
            sections.append(np.concatenate(escapes).astype("<u4", copy=False).tobytes())
        return Wire(tuple(sections)), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        n = scalars(ref)
        read_steps, shifts = quantizer.read_header(wire.sections[0])
        packed = wire.sections[2 if dither else 1]
        symbols = groups.read_symbols(packed, n, quantizer.width, quantizer.largest)
        escapes = np.empty(0, np.uint32)
        if quantizer.escapes:
            escapes = _read_escapes(wire.sections[-1], symbols)
        draw = draws.integers(wire.sections[1], n) if dither else None
        # Each chunk of values takes the place of its draws.
        out = np.empty(n, np.float32) if draw is None else draw.view(np.float32)
        for at, step, shift in zip(groups.slices(ref, scope), read_steps, shifts, strict=True):
            part = None if draw is None else draw[at]
            escapes = levels.dequantize(
                symbols[at], escapes, float(step), float(shift), part, out[at]
            )
        return split(out, ref)

    sections = 2 + dither + quantizer.escapes
    return Codec(draws.init if dither else stateless, encode, decode, sections, streams)


def _check_arguments(
    error: object, bits: object, adaptive: object, dither: object, centroid: object, grid: object
) -> None:
    if [error is not None, bits is not None, adaptive is True].count(True) != 1:
        raise ValueError("uniform: give exactly one of error, bits and adaptive: true")
    if not all(isinstance(flag, bool) for flag in (adaptive, dither, centroid, grid)):
        raise ValueError("uniform: adaptive, dither, centroid and grid must be true or false")
    if dither and grid:
        raise ValueError("uniform: with dither no value stays on a grid; give one of the two")
    if error is not None and (type(error) is not float or not 1e-4 <= error < 1):
        raise ValueError(f"uniform: error must be a float from 1e-4 to below 1, got {error!r}")
    if bits is not None and (type(bits) is not int or not 2 <= bits <= 8):
        raise ValueError(f"uniform: bits must be 2 to 8, got {bits!r}")


class _Group(NamedTuple):
    """One group of values, encoded."""

    step: float
    shift: float
    symbols: Symbols
    escapes: Escapes


@dataclass(frozen=True)
class _Quantizer:
    """How a group of values that share a step is encoded: see the arguments of `uniform`.

    ``centroid`` is False with ``dither``. Neither ``error`` nor ``bits`` is AQUILA's step.
    """

    error: float | None
    bits: int | None
    dither: bool
    centroid: bool
    grid: bool

    @property
    def escapes(self) -> bool:
        """Whether levels may be too large for a symbol."""
        return self.bits is None

    @property
    def width(self) -> int:
        """Bits of a packed symbol."""
        return 8 if self.bits is None or self.bits > 4 else 4 if self.bits > 2 else 2

    @property
    def largest(self) -> int:
        """The largest symbol."""
        return zigzag.ESCAPE if self.bits is None else 2**self.bits - 2

    @property
    def _most_level(self) -> int:
        """The largest level of a grid that is kept."""
        return uniform_grid.MOST if self.bits is None else 2 ** (self.bits - 1) - 1

    @property
    def columns(self) -> int:
        """Floats per group: its step and, with ``centroid``, its shift."""
        return 2 if self.centroid else 1

    def encode(self, x: Floats, draw: Draw | None) -> _Group:
        """Choose step and shift, and round every value."""
        step, shift = self._choose(x, draw)
        if not step:
            return _Group(0.0, 0.0, np.zeros(x.size, np.uint8), np.empty(0, np.uint32))
        group = _Group(step, shift, *levels.quantize(x, step, draw))
        if self.error is not None:
            lost = levels.squared_error(x, group.symbols, group.escapes, step, shift, draw)
            if lost > (self.error * steps.norm(x)) ** 2:
                # So few values, or so near to 0, that no wider step will do.
                step = steps.narrowest(steps.largest(x))
                group = _Group(step, 0.0, *levels.quantize(x, step, draw))
        return group

    def _choose(self, x: Floats, draw: Draw | None) -> tuple[float, float]:
        if self.grid and (step := uniform_grid.found(x, self._most_level)):
            return step, 0.0
        if self.error is not None:
            return steps.for_error(x, self.error, draw, self.centroid)
        step = steps.aquila(x) if self.bits is None else steps.for_bits(x, self.bits, self.dither)
        if not (step and self.centroid):
            return step, 0.0
        return step, steps.distortion(x, step, draw, centroid=True)[1]

    def read_header(self, section: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the step and the shift of each group.

        Raises
        ------
        WireError
            A step that is negative, NaN or Inf, or a shift of more than half.
        """
        header = np.frombuffer(section, "<f4").reshape(-1, self.columns)
        read_steps = groups.read_scales(header[:, 0].tobytes())
        shifts = header[:, 1] if self.centroid else np.zeros_like(read_steps)
        if not np.all(np.abs(shifts) <= 0.5):
            raise WireError("uniform: a shift of more than half a step")
        return read_steps, shifts


def _read_escapes(section: bytes, symbols: Symbols) -> Escapes:
    if len(section) != 4 * np.count_nonzero(symbols == zigzag.ESCAPE):
        raise WireError("uniform: not as many large levels as symbols that stand for one")
    return np.frombuffer(section, "<u4").astype(np.uint32, copy=False)
