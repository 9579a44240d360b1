"""Quantization-aware training: the model computes with what its codec will send.

A straight-through estimator (Bengio et al. 2013, https://arxiv.org/abs/1308.3432; Jacob et al.
2018, https://arxiv.org/abs/1712.05877): with the change ``x = theta - theta_ref`` and a quantizer
Q, the loss is that of ``theta_ref + Q(x)``, and its gradient there is taken for that at theta::

    theta <- theta - eta grad L(theta_ref + Q(theta - theta_ref))

The grid of Q is found in x before each epoch, and is fixed in between. An L1 penalty of x is taken
after each step, as its proximal step of the same rate (Parikh and Boyd 2014, section 6.5.2)::

    x <- sign(x) max(|x| - eta lambda, 0)

At the end theta is on the grid, so that a codec which looks for one sends it without a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_app.codecs.parts import uniform_grid, uniform_step
from fl_app.training.loop import Hooks
from fl_app.tree import Tree

Floats = NDArray[np.float32]
Rounded = Callable[[Tensor], Tensor]
"""Rounds values to a grid, value by value."""


def uniform(step: float) -> Rounded:
    """Return the rounding to multiples of a step, of levels that `uniform_grid` finds again.

    With a step of 0 everything is 0.
    """
    most = float(uniform_grid.MOST)
    if not step:
        return torch.zeros_like
    return lambda values: (values / step).round().clamp(-most, most) * step


def ternary(x: Floats) -> Rounded:
    """Return the rounding to 0 and two values, as the codec `ternary` finds them in x."""
    size = np.abs(x)
    threshold = 0.7 * float(np.mean(size, dtype=np.float64))
    large = size > threshold
    count = int(np.count_nonzero(large))
    s = float(np.float32(size[large].sum(dtype=np.float64) / count)) if count else 0.0
    return lambda values: values.sign() * s * (values.abs() > threshold)


def sign(x: Floats) -> Rounded:
    """Return the rounding to plus or minus the mean magnitude; 0 counts as positive."""
    s = float(np.float32(np.abs(x).mean(dtype=np.float64)))
    return lambda values: torch.where(values < 0, -s, s)


def step_for(x: Floats, error: float | None, bits: int | None) -> float:
    """Return the step of the codec `uniform` for an error, for a number of bits, or AQUILA's.

    It has at most 11 significant bits, so that a reference may be added to its multiples and taken
    away again; 0 of zeros.
    """
    if error is not None:
        return uniform_step.for_error(x, error, None, centroid=False)[0]
    wide = uniform_step.aquila(x) if bits is None else uniform_step.for_bits(x, bits, dither=False)
    return uniform_step.short(wide)


@dataclass(frozen=True)
class Group:
    """Tensors that share a grid.

    Attributes
    ----------
    names : sequence of str
        Of the tensors.
    fit : callable
        Finds the grid in all their values in a row.
    """

    names: Sequence[str]
    fit: Callable[[Floats], Rounded]


@dataclass
class QuantizationAware:
    """The hooks of one turn.

    Parameters
    ----------
    reference : Tree
        theta_ref of every tensor.
    groups : sequence of Group
        Which tensors have which grids; every tensor is in at most one.
    start : float
        The share of the turn's steps before the first that is quantized, in [0, 1).
    shrink : dict of str to float
        lambda, by the name of a tensor; 0 for others.
    """

    reference: Tree
    groups: Sequence[Group]
    start: float
    shrink: Mapping[str, float] = field(default_factory=dict)

    def hooks(self) -> Hooks:
        """Return the hooks, for one turn of a model."""
        return Hooks(
            starts=[self._begin], epochs=[self._fit], gradients=[self._restore], steps=[self._move]
        )

    def _begin(self, model: nn.Module, steps: int) -> None:
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._reference = {
            name: torch.from_numpy(self.reference[name]).to(parameter)
            for name, parameter in self._trained.items()
        }
        self._exact: dict[str, Tensor] = {}  # theta, while the model holds theta_ref + Q(x)
        self._rounded: dict[str, Rounded] = {}
        self._done, self._first = 0, math.ceil(self.start * steps)

    @torch.no_grad()
    def _fit(self, model: nn.Module) -> None:
        """Find the grids in the change so far, and let the model compute on them."""
        if self._done < self._first:
            return
        self._restore(model)
        for group in self.groups:
            x = [self._change(name).flatten().float().cpu().numpy() for name in group.names]
            rounded = group.fit(np.concatenate(x))
            self._rounded.update(dict.fromkeys(group.names, rounded))
        self._quantize()

    def _quantize(self) -> None:
        for name, rounded in self._rounded.items():
            parameter = self._trained[name]
            self._exact[name] = parameter.detach().clone()
            parameter.copy_(self._reference[name] + rounded(self._change(name)))

    @torch.no_grad()
    def _restore(self, model: nn.Module) -> None:
        """Put theta back, to be changed by the gradient that was found on the grid."""
        for name, exact in self._exact.items():
            self._trained[name].copy_(exact)
        self._exact.clear()

    @torch.no_grad()
    def _move(self, model: nn.Module, rate: float) -> None:
        """Shrink the change; then, where it is time, let the model compute on the grid again."""
        for name, weight in self.shrink.items():
            x = self._change(name)
            shrunk = x.sign() * (x.abs() - rate * weight).clamp_min(0.0)
            self._trained[name].copy_(self._reference[name] + shrunk)
        self._done += 1
        if self._rounded:
            self._quantize()
        else:
            self._fit(model)

    def _change(self, name: str) -> Tensor:
        return self._trained[name].detach() - self._reference[name]
