"""The sum of clipped gradients, to which one row adds at most the length of the clip.

Each row goes through the model alone. So nothing that the model does over a batch (normalization,
padding, outliers of an 8-bit layer, shared positions) can let one row change what another adds,
and autograd's own gradient is clipped: of tied, shared and looked-up weights too.
"""

import hashlib
import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.modules.batchnorm import _BatchNorm

from fl_app.faults import FaultError
from fl_app.privacy.module_state import ModuleState
from fl_app.tasks import at_labels
from fl_app.tasks.base import Task
from fl_app.training.used import check_used

Row = dict[str, Any]
TOLERANCE = 1e-3  # of a gradient's largest entry: a GPU adds up in another order every time


class ClippedSum:
    """Adds up the gradients of rows, each clipped to ``clip``.

    What is random in the model's forward pass (dropout of any kind) is drawn from torch's
    generators, seeded for every row by what the row is, the step and ``key``: the same whatever
    other rows there are, so that the bound holds for every key. Every row finds the model's modules
    as they were at the start.

    Parameters
    ----------
    model : in training mode
    clip : float
        Length of a row's gradient over all that is trained, at most.
    key : bytes
        Of what is random.

    Raises
    ------
    FaultError
        If a layer normalizes over a batch.
    """

    def __init__(self, model: nn.Module, task: Task, clip: float, key: bytes) -> None:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                raise FaultError("mixes_rows", name=f"{name} ({type(module).__name__})")
        self.model = model
        self.task = task
        self.clip = clip
        self.key = key
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trained.values())).device
        self.not_finite = 0
        self._state = ModuleState(model)
        self.clear()

    def clear(self) -> None:
        """Begin a new sum."""
        self.sums = {
            name: torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False)
            for name, parameter in self.trained.items()
        }

    def add(self, row: Row, step: int) -> None:
        """Add the clipped gradient of ``row``.

        A row without an example adds nothing, nor does one whose gradient is not finite: to fail
        because of it would tell that such a row is there.
        """
        gradient = self.gradient(row, step)
        lengths = [float(vector_norm(g, dtype=torch.float64)) for g in gradient.values()]
        length = math.hypot(*lengths)
        if not math.isfinite(length):
            self.not_finite += 1
            return
        scale = min(1.0, self.clip / length) if length else 0.0
        for name, values in gradient.items():
            self.sums[name].add_(values, alpha=scale)

    def gradient(self, row: Row, step: int) -> dict[str, Tensor]:
        """Return the gradient of the loss of ``row`` alone; a parameter not used has none.

        The loss is the mean over the row's own labels, over all its examples.
        """
        if not self.task.examples([row]):
            return {}
        batch = self.task.training([row])
        torch.manual_seed(self._seed(batch, step))
        self._forget_gradients()
        try:
            loss = at_labels.loss(self.model, {k: v.to(self.device) for k, v in batch.items()})
            if loss.requires_grad:  # not where every layer that is trained was dropped
                loss.backward()
            return {n: p.grad for n, p in self.trained.items() if p.grad is not None}
        finally:  # also for a later turn, where this one fails
            self._forget_gradients()
            self._state.put_back()

    def check(self, rows: Iterable[Row]) -> None:
        """Check on two of ``rows`` that nothing of one stays in the model and changes another's.

        Raises
        ------
        FaultError
            If the gradient of the first is another one after the second, or a parameter has none;
            the reason names the parameter.
        """
        pair = list(islice((row for row in rows if self.task.examples([row])), 2))
        if not pair:
            return
        first, second, again = (self.gradient(row, 0) for row in (pair[0], pair[-1], pair[0]))
        check_used(self.model, {**first, **second})
        for name in {**first, **again}:
            if name not in first or name not in again or _differ(first[name], again[name]):
                raise FaultError("mixes_rows", name=name)

    def _forget_gradients(self) -> None:
        for parameter in self.trained.values():
            parameter.grad = None

    def _seed(self, batch: dict[str, Tensor], step: int) -> int:
        """Return a seed of the row whose tensors are ``batch``, of 63 bits."""
        made = hashlib.blake2b(digest_size=8, key=self.key)
        made.update(step.to_bytes(8, "little"))
        for name, values in batch.items():
            made.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            made.update(values.contiguous().numpy().data)
        return int.from_bytes(made.digest(), "little") >> 1


def _differ(one: Tensor, other: Tensor) -> bool:
    finite, still = (bool(torch.isfinite(values).all()) for values in (one, other))
    if not (finite and still):
        return finite != still
    return float((one - other).abs().max()) > TOLERANCE * float(one.abs().max())
