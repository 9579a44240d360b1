"""Running a loop over symbols with numba or, the same function, in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def run(kernel: Callable[..., Any], *args: Any) -> Any:
    """Call a function that went through `jit`; it must work on integers that never overflow.

    Without numba it gets the buffers of its arrays, whose items are Python's own integers.
    """
    if hasattr(kernel, "py_func"):
        return kernel(*args)
    return kernel(*(a.data if isinstance(a, np.ndarray) else a for a in args))
