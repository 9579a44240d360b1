"""What the local loop went through: some of its iterates, and squares of its gradients."""

import numpy as np
from numpy.typing import NDArray
from torch import nn


class Path:
    """What the local loop went through: iterates, and squares of gradients.

    Parameters
    ----------
    samples : int
        Iterates to keep.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.iterates: list[dict[str, NDArray[np.float64]]] = []
        self.squares: dict[str, NDArray[np.float64]] = {}
        self.steps = self.done = 0

    def begin(self, model: nn.Module, steps: int) -> None:
        """Note the number of steps."""
        self.steps = steps

    def square(self, model: nn.Module) -> None:
        """Add the squares of the gradients of a step."""
        for name, p in model.named_parameters():
            if p.grad is not None:
                g = p.grad.detach().cpu().numpy().astype(np.float64)
                self.squares[name] = self.squares.get(name, 0) + g**2

    def step(self, model: nn.Module, rate: float) -> None:
        """Keep the parameters, if it is time."""
        del rate
        self.done += 1
        left = self.steps - self.done
        every = max(1, self.steps // self.samples)
        if left % every == 0 and left // every < self.samples:
            self.iterates.append(
                {
                    n: p.detach().cpu().numpy().astype(np.float64)
                    for n, p in model.named_parameters()
                    if p.requires_grad
                }
            )

    def mean(self) -> dict[str, NDArray[np.floating]]:
        """Return the mean of the iterates."""
        return {n: np.mean([x[n] for x in self.iterates], axis=0) for n in self.iterates[0]}

    def variance(self) -> dict[str, NDArray[np.floating]]:
        """Return the variance of the iterates, by value."""
        return {n: np.var([x[n] for x in self.iterates], axis=0) for n in self.iterates[0]}

    def mean_square(self) -> dict[str, NDArray[np.floating]]:
        """Return the mean square of the gradients of a step, by value."""
        return {n: x / self.done for n, x in self.squares.items()}
