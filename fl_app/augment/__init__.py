"""Augmentation: how a client changes its rows each time that it trains on them.

An augmentation is a class that is built from the group ``augment`` of the configuration and is
called with a row and a generator; it returns another row, which ``Task.training`` takes as it takes
rows (pieces, of a task that cuts rows). It is for the tasks that it is listed with, and changes
nothing that is scored. Draws come from the turn's seed, in the order of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig

from fl_app.config.named import Named

NONE = "none"
Row = Mapping[str, Any]
Augment = Callable[[Row, np.random.Generator], dict[str, Any]]

AUGMENTS: Mapping[str, Callable[[DictConfig], Augment]] = Named(
    {"documents": "fl_app.augment.documents:Documents"}
)
TASKS: Mapping[str, tuple[str, ...]] = {"documents": ("docvqa",)}
"""The ids of the tasks that each is for."""


def build(cfg: DictConfig) -> Augment | None:
    """Return the augmentation of a run; None where rows are trained on as they are."""
    return None if cfg.augment.id == NONE else AUGMENTS[cfg.augment.id](cfg.augment)
