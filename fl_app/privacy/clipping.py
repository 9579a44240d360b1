"""Updates of at most a length: what client-level privacy adds up.

The clients' half of it: with ``strategy=fedavg_dp_client`` each clips its own.
"""

import numpy as np
from flwr.app import Array, ArrayRecord


def shortened(arrays: ArrayRecord, start: ArrayRecord, length: float) -> ArrayRecord:
    """Return ``arrays`` with their difference from ``start`` scaled down to ``length``, if longer.

    A difference of zero stays zero. FlatClip of McMahan et al. 2018,
    https://arxiv.org/abs/1710.06963.

    Raises
    ------
    ValueError
        If the difference has no finite length, or the names are others.
    """
    if list(arrays) != list(start):
        raise ValueError("the arrays to be clipped are not those that were sent")
    begin = {name: array.numpy() for name, array in start.items()}
    change = {
        name: array.numpy().astype(np.float64) - begin[name] for name, array in arrays.items()
    }
    norm = float(np.sqrt(sum(np.square(values).sum() for values in change.values())))
    if not np.isfinite(norm):
        raise ValueError("the update to be clipped is not finite")
    if norm <= length:
        return arrays
    return ArrayRecord(
        {
            name: Array((begin[name] + values * (length / norm)).astype(begin[name].dtype))
            for name, values in change.items()
        }
    )
