"""Half precision and the change since a reference: numba and numpy give the same bits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_app.codecs.delta import _minus, _plus, minus_numpy, plus_numpy
from fl_app.codecs.parts import half

FINITE = np.arange(0x7C00, dtype=np.uint16)
FINITE = np.concatenate([FINITE, FINITE | np.uint16(0x8000)])


def to_half(x: np.ndarray) -> np.ndarray:
    out, again = np.empty(x.size, np.uint16), np.empty(x.size, np.uint16)
    half.to_half(x, out)
    half.to_half_numpy(x, again)
    assert np.array_equal(out, again)
    return out


def test_every_half_comes_back():
    values, again = np.empty(FINITE.size, np.float32), np.empty(FINITE.size, np.float32)
    half.from_half(FINITE, values)
    half.from_half_numpy(FINITE, again)
    assert values.tobytes() == again.tobytes()
    assert np.array_equal(to_half(values), FINITE)


def test_every_tie_and_its_neighbours_round_as_in_numpy():
    values = FINITE[:0x7C00].view(np.float16).astype(np.float32)
    ties = (values[:-1] + values[1:]) / np.float32(2)
    near = [np.nextafter(ties, np.float32(side)) for side in (0, 1e6)]
    for x in (ties, *near):
        to_half(x)
        to_half(-x)
    to_half(np.array([0, -0.0, 1e-45, -1e-45, 1e-38, 65519], np.float32))


@given(raw=hnp.arrays(np.uint32, st.integers(0, 300)))
@settings(max_examples=200, deadline=None)
def test_any_float_rounds_as_in_numpy(raw):
    x = raw.view(np.float32)
    with np.errstate(invalid="ignore"):
        to_half(np.where(np.abs(x) < 65520, x, np.float32(0)))


@given(raw=hnp.arrays(np.uint32, st.tuples(st.just(2), st.integers(0, 300))), small=st.booleans())
@settings(max_examples=200, deadline=None)
def test_changes_have_the_same_bits_and_faults(raw, small):
    x, ref = raw.view(np.float32)
    if small:
        x, ref = (np.where(np.abs(v) < 1e38, v, np.float32(-0.0)) for v in (x, ref))
    out, again = np.empty_like(x), np.empty_like(x)
    fine = _minus(x, ref, out)
    assert fine == minus_numpy(x, ref, again)
    assert not fine or out.tobytes() == again.tobytes()
    out, again = x.copy(), x.copy()
    fine = _plus(ref, out)
    assert fine == plus_numpy(ref, again)
    assert not fine or out.tobytes() == again.tobytes()
    assert fine or not small
