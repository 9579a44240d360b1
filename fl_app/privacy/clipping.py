"""Updates of at most a length: what client-level privacy adds up."""

import numpy as np

from fl_app.tree import Tree


def shortened(tree: Tree, start: Tree, length: float) -> Tree:
    """Return ``tree`` with its difference from ``start`` scaled down to ``length``, if longer.

    A difference of zero stays zero. FlatClip of McMahan et al. 2018,
    https://arxiv.org/abs/1710.06963.

    Raises
    ------
    ValueError
        If the difference has no finite length, or the names are others.
    """
    if list(tree) != list(start):
        raise ValueError("the tensors to be clipped are not those that were sent")
    change = {name: values.astype(np.float64) - start[name] for name, values in tree.items()}
    norm = float(np.sqrt(sum(np.square(values).sum() for values in change.values())))
    if not np.isfinite(norm):
        raise ValueError("the update to be clipped is not finite")
    if norm <= length:
        return tree
    return {
        name: (start[name] + values * (length / norm)).astype(start[name].dtype)
        for name, values in change.items()
    }
