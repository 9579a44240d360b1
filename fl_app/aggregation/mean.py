"""The weighted mean of a round's models, folded in reply by reply.

Flower's mean-type strategies hold all replies and then average them. The mean needs only the sum::

    sum_k w_k x_k,     sum_k w_k,

so that memory does not grow with the clients. Replies come in any order, on which a sum of
floating-point numbers depends. It is therefore compensated (TwoSum of Knuth, Sum2 of Ogita, Rump &
Oishi 2005, https://doi.org/10.1137/030601818): products are exact in float64 (24 bits by at most
29), and the rounding error of every addition is kept and added at the end, as if in twice that
precision. What order may still change is far below what float32 rounds off.
"""

from collections.abc import Mapping

import numpy as np
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy

from fl_app.tree import Tree

# Flower's strategies whose new model is a function of the replies' weighted mean.
FLOWERS = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)


def is_mean_type(strategy: Strategy) -> bool:
    """Return whether ``strategy`` needs no more of a round than its weighted mean."""
    return is_mean_class(type(strategy))


def is_mean_class(kind: type) -> bool:
    """Return whether strategies of this class need no more of a round than its weighted mean.

    A strategy of ours says so itself: its class has ``mean_type = True``. A class derived from one
    that does may do as it likes with the replies, so the attribute is not inherited.
    """
    return kind in FLOWERS or vars(kind).get("mean_type", False) is True


class Mean:
    """The mean of what was added; of the same trees and weights the same, in whatever order."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.count = 0
        self._sums: dict[str, np.ndarray] = {}
        self._errors: dict[str, np.ndarray] = {}
        self._metrics: dict[str, list[tuple[float, float]]] = {}

    def add(self, tree: Tree, weight: float, metrics: Mapping[str, float]) -> None:
        """Fold in one client's model and metrics.

        Parameters
        ----------
        tree : Tree
            The same names and shapes every time.
        weight : float
            A whole number below 2^29, for the products to be exact.
        metrics : mapping of str to float
            Their weighted mean is taken too.
        """
        self.weight += weight
        self.count += 1
        for name, values in tree.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(values.shape)
                self._errors[name] = np.zeros(values.shape)
            _two_sum(self._sums[name], self._errors[name], weight * values.astype(np.float64))
        for name, value in metrics.items():
            self._metrics.setdefault(name, []).append((weight, value))

    def tree(self) -> Tree:
        """Return the mean, rounded once to float32."""
        return {
            name: ((total + self._errors[name]) / self.weight).astype(np.float32)
            for name, total in self._sums.items()
        }

    def metrics(self) -> dict[str, float]:
        """Return the weighted mean of every metric."""
        return {
            name: sum(w * value for w, value in sorted(pairs)) / self.weight
            for name, pairs in self._metrics.items()
        }


def _two_sum(total: np.ndarray, error: np.ndarray, addend: np.ndarray) -> None:
    """Add ``addend`` to ``total`` and what that rounds off to ``error``, in place."""
    before = total.copy()
    total += addend
    virtual = total - before
    error += (before - (total - virtual)) + (addend - virtual)
