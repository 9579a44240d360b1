"""The change of a model's weights in training, matrix by matrix, and its effective rank.

Biderman et al. 2024, https://arxiv.org/abs/2405.09673, section 5: a change is of effective rank k
where its k largest singular values have 90 % of its squared norm.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fl_app.adapters.lora_sb.layers import ADAPTER
from fl_app.tree import Tree

SHARE = 0.9


def effective_rank(change: Tensor, share: float = SHARE) -> int:
    """Return how many singular values of ``change`` have ``share`` of its squared norm.

    0 of no change.
    """
    squares = torch.linalg.svdvals(change.double()).square()
    if not squares.sum() > 0:
        return 0
    kept = squares.cumsum(0) / squares.sum()
    return int((kept < share - 1e-12).sum()) + 1


def changes(
    adapter: ModuleType, model: nn.Module, start: Tree, now: Tree
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the change, float32 [out, in], of every matrix that training changes.

    That is the merged update: of an adapter's product, patches of the weights under it, and of
    matrices that are trained whole. What is no change of a weight is left out: (IA)^3's scales, or
    numbers that weights are made of, such as the codes of ``adapter=tied`` and LiGO's operator. The
    model is left with the tensors ``now``.

    Parameters
    ----------
    adapter : module
        Of ``fl_app.adapters``.
    model : Module
        The session's model.
    start, now : Tree
        What is trained at the start, and after training.
    """
    adapter.set(model, start)
    before = {name: _delta(module) for name, module in _products(model)}
    adapter.set(model, now)
    for name, module in _products(model):
        patched = getattr(module, "patched", None)
        added = 0 if patched is None else patched.B @ patched.A
        yield name, _delta(module) - before.pop(name) + added
    factors = tuple(f"{name}." for name, _ in _products(model))
    for name, x in now.items():
        if x.ndim == 2 and name.endswith(".weight") and not name.startswith(factors):
            yield name.removesuffix(".weight"), torch.from_numpy(np.subtract(x, start[name]))


def _products(model: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight") and ADAPTER in getattr(module, "active_adapters", ())
    ]


def _delta(module: Any) -> Tensor:
    with torch.no_grad():
        delta: Tensor = module.get_delta_weight(ADAPTER).detach().to("cpu", torch.float32)
    return delta.T if getattr(module, "fan_in_fan_out", False) else delta
