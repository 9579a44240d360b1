"""B, R and A of LoRA-SB's modules: as tensors, in a model, and as a Tree for the wire."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fl_app.adapters.lora_sb.layers import base, layers, parts
from fl_app.tree import Tree


class Factors(NamedTuple):
    """B [out, r], R [r, r] and A [r, in] of one module."""

    B: Tensor
    R: Tensor
    A: Tensor


def install(
    model: nn.Module, factors: Mapping[str, Factors], *, official_numerics: bool = False
) -> None:
    """Put B, R and A into the modules of ``model``; it then computes W0 + s B R A.

    They are float32 whatever the base is; with ``official_numerics`` they have the base's type (of
    a base in 4 or 8 bits float32).

    Raises
    ------
    ValueError
        If the names are not those of the adapted modules, or a shape differs.
    """
    wrapped = layers(model)
    if list(factors) != list(wrapped):
        different = sorted({*factors} ^ {*wrapped})[:3]
        raise ValueError(
            f"the factors are not of this model: names differ, for example {different}"
        )
    for name, layer in wrapped.items():
        weight = base(layer).weight
        dtype = weight.dtype if official_numerics and weight.is_floating_point() else torch.float32
        for part, new in zip(parts(layer), factors[name], strict=True):
            if new.shape != part.weight.shape:
                raise ValueError(
                    f"{name}: shape {tuple(new.shape)} should be {tuple(part.weight.shape)}"
                )
            part.weight.data = new.to(part.weight.device, dtype, copy=True)


def installed(model: nn.Module) -> dict[str, Factors]:
    """Return B, R and A of every module as they are now; the tensors are the model's own."""
    return {
        name: Factors(*(part.weight.detach() for part in parts(layer)))
        for name, layer in layers(model).items()
    }


def outer(model: nn.Module) -> Tree:
    """Return B and A of every module, which never change after the set-up.

    ``fl_app.tree.digest`` of it tells two sides whether they hold the same.
    """
    return {
        f"{name}.{key}": _numpy(value)
        for name, factors in installed(model).items()
        for key, value in (("B", factors.B), ("A", factors.A))
    }


def to_tree(factors: Mapping[str, Factors]) -> Tree:
    """Return the factors as float32 arrays NAME.B, NAME.R, NAME.A: the set-up's download."""
    return {
        f"{name}.{key}": _numpy(value)
        for name, held in factors.items()
        for key, value in held._asdict().items()
    }


def from_tree(tree: Tree) -> dict[str, Factors]:
    """Return the factors that `to_tree` made a Tree of, as float32 tensors.

    Raises
    ------
    ValueError
        If the names are not B, R and A of one module after another.
    """
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in tree))
    if list(tree) != [f"{name}.{key}" for name in names for key in Factors._fields]:
        raise ValueError("the tree is not one of B, R and A of one module after another")
    return {
        name: Factors(*(torch.from_numpy(tree[f"{name}.{key}"]) for key in Factors._fields))
        for name in names
    }


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().to("cpu", torch.float32).contiguous().numpy().copy()
