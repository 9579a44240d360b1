"""The sign of a value, where 0 has one too."""

import numpy as np


def signs(values: np.ndarray) -> np.ndarray:
    """Return -1 below 0, else +1, in float32."""
    return np.where(values < 0, np.float32(-1), np.float32(1))
