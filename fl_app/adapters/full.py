"""Full fine-tuning: every parameter of the model is trained and sent, but for frozen modules."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from transformers import PreTrainedModel

from fl_app.adapters.precision import whole_in_float32
from fl_app.config import plain
from fl_app.models.head import classification_head
from fl_app.tree import Tree


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PreTrainedModel:
    """Make every parameter trainable but those of ``cfg.freeze`` and those that the model's class
    freezes. theta0 is the model itself, in float32.

    Raises
    ------
    ValueError
        If a name of ``cfg.freeze`` is that of no module, or of the head of a classifier.
    """
    whole_in_float32(model)
    model.requires_grad_(True)
    _freeze(model, [*frozen(model), *plain(cfg.freeze)])
    for name in classification_head(model):
        if not all(parameter.requires_grad for parameter in model.get_submodule(name).parameters()):
            raise ValueError(
                f"adapter.freeze={plain(cfg.freeze)} freezes {name}, the head that the task "
                "trains: leave it out"
            )
    return model


def frozen(model: torch.nn.Module) -> list[str]:
    """Return the modules of ``model`` that its class never trains, by the attribute ``frozen``."""
    return [name for name in getattr(model, "frozen", ()) if hasattr(model, name)]


def _freeze(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Freeze the modules that are called so, or whose path ends so, as PEFT matches names.

    The name may also be that of a parameter.
    """
    parts = [*model.named_modules(), *model.named_parameters()]
    for name in names:
        found = [part for path, part in parts if f".{path}".endswith(f".{name}")]
        if not found:
            raise ValueError(f"adapter.freeze={name}: the model has no module of that name")
        for part in found:
            part.requires_grad_(False)


def get(model: torch.nn.Module) -> Tree:
    """Return the trainable parameters, each once (tied tensors under their first name)."""
    return {
        name: parameter.detach().to("cpu", torch.float32).numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def set(model: torch.nn.Module, tree: Tree) -> None:
    """Write ``tree`` into the trainable parameters.

    Raises
    ------
    ValueError
        If the names are not exactly those of ``get``, or a shape differs.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if list(tree) != list(parameters):
        different = sorted({*tree} ^ {*parameters})[:3]
        raise ValueError(f"the tree is not of this model: names differ, for example {different}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tree[name].shape != tuple(parameter.shape):
                raise ValueError(
                    f"{name}: shape {tree[name].shape} should be {tuple(parameter.shape)}"
                )
            parameter.copy_(torch.from_numpy(np.asarray(tree[name], order="C")))


def export(model: PreTrainedModel, folder: Path) -> None:
    """Save the whole model for ``from_pretrained``."""
    model.save_pretrained(folder)
