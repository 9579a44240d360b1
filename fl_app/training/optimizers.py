"""Local optimizers and their learning-rate schedules, for one client's turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:  # the names of optimizers are checked before torch is imported
    import torch

GRAFTS = ("adamw", "sgd", "none")  # whose step length Shampoo takes


def _adamw(parameters: Iterable[torch.nn.Parameter], cfg: DictConfig) -> torch.optim.Optimizer:
    from torch.optim import AdamW

    return AdamW(
        parameters,
        lr=cfg.lr,
        betas=tuple(cfg.betas),
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
    )


def _shampoo(parameters: Iterable[torch.nn.Parameter], cfg: DictConfig) -> torch.optim.Optimizer:
    from fl_app.training.shampoo import Shampoo

    return Shampoo(
        parameters,
        lr=cfg.lr,
        betas=tuple(cfg.betas),
        eps=cfg.eps,
        decay=cfg.decay,
        exponent=cfg.exponent,
        root_interval=cfg.root_interval,
        block_size=cfg.block_size,
        graft=cfg.graft,
        weight_decay=cfg.weight_decay,
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "shampoo": _shampoo,
}

# Factor of the learning rate after the warm-up, at progress p from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda p: 1.0,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "linear": lambda p: 1.0 - p,
}


def build(
    parameters: Iterable[torch.nn.Parameter], cfg: DictConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Build the optimizer and its schedule over a turn of ``steps`` steps.

    Parameters
    ----------
    parameters : iterable of Parameter
        What is trained.
    cfg : DictConfig
        The ``optimizer`` group; ``warmup`` is a share of the steps.
    steps : int
        Steps of the turn.
    """
    from torch.optim.lr_scheduler import LambdaLR

    optimizer = OPTIMIZERS[cfg.id](parameters, cfg)
    warmup = math.ceil(cfg.warmup * steps)
    decay = SCHEDULES[cfg.schedule]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay((step - warmup) / max(1, steps - warmup))

    return optimizer, LambdaLR(optimizer, factor)
