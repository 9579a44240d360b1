"""What the local loop went through: mean and variance of iterates, mean squares of gradients.

Iterates are summed as they come (Welford 1962), so that memory does not grow with their number.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn


class Path:
    """Moments of what the local loop went through, in float64.

    Parameters
    ----------
    samples : int
        Iterates to take, the last one and others at even distances before it.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._mean: dict[str, NDArray[np.float64]] = {}
        self._spread: dict[str, NDArray[np.float64]] = {}  # sum of squares around the mean
        self._squares: dict[str, NDArray[np.float64]] = {}
        self.steps = self.done = self.taken = 0

    def begin(self, model: nn.Module, steps: int) -> None:
        """Note the number of steps."""
        self.steps = steps

    def square(self, model: nn.Module) -> None:
        """Add the squares of the gradients of a step."""
        for name, p in model.named_parameters():
            if p.grad is not None:
                g = p.grad.detach().cpu().numpy().astype(np.float64)
                self._squares[name] = self._squares.get(name, 0) + g**2

    def step(self, model: nn.Module, rate: float) -> None:
        """Take the parameters as an iterate, if it is time."""
        del rate
        self.done += 1
        left = self.steps - self.done
        every = max(1, self.steps // self.samples)
        if left % every == 0 and left // every < self.samples:
            self.taken += 1
            for name, p in model.named_parameters():
                if p.requires_grad:
                    self._take(name, p.detach().cpu().numpy().astype(np.float64))

    def _take(self, name: str, x: NDArray[np.float64]) -> None:
        before = x - self._mean.get(name, 0)
        self._mean[name] = self._mean.get(name, 0) + before / self.taken
        self._spread[name] = self._spread.get(name, 0) + before * (x - self._mean[name])

    def mean(self) -> dict[str, NDArray[np.floating]]:
        """Return the mean of the iterates."""
        return {**self._mean}

    def variance(self) -> dict[str, NDArray[np.floating]]:
        """Return the variance of the iterates, by value."""
        return {n: x / self.taken for n, x in self._spread.items()}

    def mean_square(self) -> dict[str, NDArray[np.floating]]:
        """Return the mean square of the gradients of a step, by value."""
        return {n: x / self.done for n, x in self._squares.items()}
