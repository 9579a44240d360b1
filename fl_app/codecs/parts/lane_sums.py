"""Sums whose roundings every machine makes alike: value i is added in lane i mod `LANES`.

A compiler may not reorder a sum of floats, but it can add a row of lanes at once; numpy adds rows
in the same order. The lanes themselves are added by ``math.fsum``, which rounds once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.parts.compiled import jit, numba
from fl_app.codecs.parts.groups import CHUNK  # a multiple of LANES

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Lanes = NDArray[np.float64]

LANES = 128
_HALF = np.float32(0.5 - 2**-25)


def squared_norm(x: F32) -> float:
    """Return the sum of x**2."""
    lanes = np.zeros(LANES)
    _squared_norm(x, lanes)
    return math.fsum(lanes)


def squared_distance(x: F32, y: F32) -> float:
    """Return the sum of ``(x - y)**2``."""
    lanes = np.zeros(LANES)
    _squared_distance(x, y, lanes)
    return math.fsum(lanes)


def squared_loss(x: F32, symbols: U8, table: F32) -> float:
    """Return the sum of ``(x - table[symbols])**2``; the table has a value of every symbol."""
    lanes = np.zeros(LANES)
    _squared_loss(x, symbols, table, lanes)
    return math.fsum(lanes)


def roundings(x: F32, inverse: float, draw: U32 | None) -> tuple[float, float, int]:
    """Return what rounding ``a = |x * inverse + u|`` to the nearest integer q loses.

    Parameters
    ----------
    draw : uint32 [n], optional
        The draws that the dither u is made of, see `dither`; None for u = 0.

    Returns
    -------
    float, float, int
        The sums of ``(a - q)**2``, and of ``a - q`` where q is not 0, and how many those are.
    """
    lanes = np.zeros((3, LANES))
    _roundings(x, inverse, np.empty(0, np.uint32) if draw is None else draw, lanes)
    squares, outside, count = map(math.fsum, lanes)
    return squares, outside, int(count)


def dither(draw: U32) -> F32:
    """Return values of (-1/2, 1/2), with a mean of exactly 0 over all draws: exact in float32."""
    return (draw >> np.uint32(8)).astype(np.float32) * np.float32(2**-24) - _HALF


@jit
def dither_of(draw):
    """Return `dither` of one draw."""
    return np.float32(draw >> np.uint32(8)) * np.float32(2**-24) - _HALF


def add(lanes: Lanes, terms: NDArray[np.float64]) -> None:
    """Add terms to lanes in the order of the kernels; all but the last call bring whole rows."""
    whole = terms.size // LANES * LANES
    if whole:
        lanes[:] = np.add.reduce(np.concatenate([lanes, terms[:whole]]).reshape(-1, LANES), axis=0)
    lanes[: terms.size - whole] += terms[whole:]


def squared_norm_numpy(x: F32, lanes: Lanes) -> None:
    for i in range(0, x.size, CHUNK):
        part = x[i : i + CHUNK].astype(np.float64)
        add(lanes, part * part)


def squared_distance_numpy(x: F32, y: F32, lanes: Lanes) -> None:
    for i in range(0, x.size, CHUNK):
        part = x[i : i + CHUNK].astype(np.float64) - y[i : i + CHUNK]
        add(lanes, part * part)


def squared_loss_numpy(x: F32, symbols: U8, table: F32, lanes: Lanes) -> None:
    for i in range(0, x.size, CHUNK):
        part = x[i : i + CHUNK].astype(np.float64) - table[symbols[i : i + CHUNK]]
        add(lanes, part * part)


def roundings_numpy(x: F32, inverse: float, draw: U32, lanes: Lanes) -> None:
    squares, outside, count = lanes
    for i in range(0, x.size, CHUNK):
        a = np.multiply(x[i : i + CHUNK], inverse, dtype=np.float64)
        if draw.size:
            a += dither(draw[i : i + CHUNK])
        np.abs(a, out=a)
        far = (a > 0.5).astype(np.float64)
        a -= np.rint(a)
        add(squares, a * a)
        add(outside, a * far)
        add(count, far)


@jit
def _squared_norm(x, lanes):
    for start in range(0, x.size, LANES):
        part = x[start : start + LANES]
        for i in range(part.size):
            v = np.float64(part[i])
            lanes[i] += v * v


@jit
def _squared_distance(x, y, lanes):
    for start in range(0, x.size, LANES):
        part, those = x[start : start + LANES], y[start : start + LANES]
        for i in range(part.size):
            v = np.float64(part[i]) - np.float64(those[i])
            lanes[i] += v * v


@jit
def _squared_loss(x, symbols, table, lanes):
    for start in range(0, x.size, LANES):
        part, those = x[start : start + LANES], symbols[start : start + LANES]
        for i in range(part.size):
            v = np.float64(part[i]) - np.float64(table[those[i]])
            lanes[i] += v * v


@jit
def _roundings(x, inverse, draw, lanes):
    squares, outside, count = lanes[0], lanes[1], lanes[2]
    for start in range(0, x.size, LANES):
        part, those = x[start : start + LANES], draw[start : start + LANES]
        for i in range(part.size):
            a = np.float64(part[i]) * inverse
            if those.size:
                a += np.float64(dither_of(those[i]))
            a = abs(a)
            far = 1.0 if a > 0.5 else 0.0
            a -= np.rint(a)
            squares[i] += a * a
            outside[i] += a * far
            count[i] += far


if numba is None:
    _squared_norm, _squared_distance = squared_norm_numpy, squared_distance_numpy
    _squared_loss, _roundings = squared_loss_numpy, roundings_numpy
