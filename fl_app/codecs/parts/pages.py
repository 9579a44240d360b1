"""New memory for decoded values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HUGE = 1 << 21


def new_values(n: int) -> NDArray[np.float32]:
    """Return n float32 that hold anything, those of a large array at the start of a huge page.

    numpy asks Linux for pages of 2 MiB from 4 MiB on; but malloc starts in the middle of one, and
    up to 2 MiB at both ends would come in 512 small pages each, slower than the rest together.
    """
    if 4 * n < 2 * HUGE:
        return np.empty(n, np.float32)
    memory = np.empty(4 * n + HUGE, np.uint8)
    start = -memory.ctypes.data % HUGE
    return memory[start : start + 4 * n].view(np.float32)
