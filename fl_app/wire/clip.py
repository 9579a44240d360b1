"""Bounding the length of a client's update."""

import numpy as np

from fl_app.tree import Tree, rms


def within(limit: float, tree: Tree, start: Tree) -> tuple[Tree, float]:
    """Return ``tree`` with its change from ``start`` scaled down to a length, and its length.

    Parameters
    ----------
    limit : float
        The most that the root mean square of the change may be, over all values. A shorter one is
        returned as it is, the very ``tree``.

    Returns
    -------
    tree : Tree
    found : float
        The root mean square before; where no value changed by more than ``limit``, ``limit``.
    """
    if all(np.abs(tree[name] - x).max(initial=0.0) <= limit for name, x in start.items()):
        return tree, limit  # then their mean is no more either
    found = rms(tree, start)
    if found <= limit:
        return tree, found
    factor = limit / found
    return {
        name: (x + factor * (tree[name] - x.astype(np.float64))).astype(np.float32)
        for name, x in start.items()
    }, found
