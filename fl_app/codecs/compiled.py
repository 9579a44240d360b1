"""``jit``: numba where it is there, the plain function where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:  # the numpy versions serve alone
    numba = None  # type: ignore[assignment]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call, without holding the interpreter's lock in it."""
    if numba is None:
        return function
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # numba found no folder to cache in: compile once per process
        return numba.njit(function, nogil=True, error_model="numpy")
