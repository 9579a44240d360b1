"""Zeroth order: slopes of the loss along seeded random directions, by forward passes alone.

Two passes give the slope along z by a central difference (MeZO, Malladi et al. 2023,
https://arxiv.org/abs/2305.17333, algorithm 1)::

    rho = (L(w + eps z) - L(w - eps z)) / (2 eps).

w is all trained values as one vector, in the order of theta0. z(s) is drawn on the CPU by numpy's
Philox generator, whatever device the model is on, and sums of directions are taken in float32 by
numpy, a rounding for each product and each sum: with one version of numpy every machine has the
same bits.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_app.codecs.parts.groups import concatenate
from fl_app.tree import Tree, split

Vector = NDArray[np.float32]
MOST_MASTER = 2**64 - 1  # of a key of Philox


def direction(master: int, number: int, d: int) -> Vector:
    """Return z(s) in R^d, standard normal, for s = (``master``, ``number``)."""
    philox = np.random.Philox(key=np.array([master, number], np.uint64))
    return np.random.Generator(philox).standard_normal(d, np.float32)


def moved(w: Vector, steps: Iterable[tuple[int, float]], master: int) -> Vector:
    """Return w - sum_s a_s z(s), one s after the other; a_s = 0 costs nothing.

    Parameters
    ----------
    w : array of float32
        Where to start.
    steps : iterable of (int, float)
        s and a_s, which is rounded to float32.
    master : int
        See `direction`.
    """
    w = w.copy()
    for number, a in steps:
        if a:
            w -= np.float32(a) * direction(master, number, w.size)
    return w


class Point:
    """The trained parameters of a model as one vector w, of which the model gets copies.

    Parameters
    ----------
    model : Module
        Its parameters of the names of ``w`` are written to.
    w : Tree
        The values to start from, which the model gets at once.
    """

    def __init__(self, model: nn.Module, w: Tree) -> None:
        self._like = w
        parameters = dict(model.named_parameters())
        self._parameters = [parameters[name] for name in w]
        self.w = concatenate(w)
        self.write(self.w)

    def write(self, values: Vector) -> None:
        """Give the model these values; w stays."""
        with torch.no_grad():
            tree = split(values, self._like).values()
            for parameter, x in zip(self._parameters, tree, strict=True):
                parameter.copy_(torch.from_numpy(x))

    def slope(self, loss: Callable[[], float], z: Vector, eps: float) -> tuple[float, float]:
        """Return rho along z, and the mean of the two losses; the model has w again afterwards.

        Since w is kept apart, a probe leaves no rounding in it.
        """
        step = np.float32(eps) * z
        self.write(self.w + step)
        higher = loss()
        self.write(self.w - step)
        lower = loss()
        self.write(self.w)
        return (higher - lower) / (2 * eps), (higher + lower) / 2
