"""Masks: entries of gradients that are 0, and entries of parameters that do not move."""

from collections.abc import Callable, Mapping

import torch
from numpy import bool_
from numpy.typing import NDArray
from torch import nn

from fl_app.training.loop import GradientHook, StepHook

Masks = Mapping[str, NDArray[bool_]]
"""By parameter, True where it is trained; what has none is trained whole."""


def masked(draw: Callable[[], Masks]) -> GradientHook:
    """Return the hook that sets gradients outside of a mask to 0; one is drawn for each step."""

    def hook(model: nn.Module) -> None:
        masks = draw()
        for name, parameter in model.named_parameters():
            if name in masks and parameter.grad is not None:
                parameter.grad.mul_(torch.from_numpy(masks[name]).to(parameter.grad))

    return hook


def kept_still(model: nn.Module, masks: Masks) -> StepHook:
    """Return the hook that puts what is outside of the masks back after a step.

    With a gradient of 0 from the first step on, Adam's moments there stay 0; this is for the
    optimizer's weight decay, and for those whose steps mix entries.

    Parameters
    ----------
    model : Module
        Its parameters at the time of this call are what stays.
    """
    start = {n: p.detach().clone() for n, p in model.named_parameters() if n in masks}
    trained = {n: torch.from_numpy(m) for n, m in masks.items()}

    def hook(model: nn.Module, rate: float) -> None:
        del rate
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in start:
                    mask = trained[name].to(parameter.device)
                    parameter.copy_(torch.where(mask, parameter, start[name]))

    return hook
