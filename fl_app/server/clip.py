"""Bounding the length of a client's update."""

import numpy as np


def _within(limit: float, values: np.ndarray, start: np.ndarray) -> bool:
    """Return whether no value changed by more than ``limit``; then their mean did not either."""
    return bool(np.abs(values - start).max(initial=0.0) <= limit)
