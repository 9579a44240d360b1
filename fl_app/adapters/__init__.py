"""Adapters: which tensors of a model are trained and sent.

An adapter is four functions, given as a module of this package:

- ``attach(model, cfg, seed) -> model``: make exactly the adapter's tensors trainable; their start
  depends on ``seed`` alone, so that every machine finds the same theta0.
- ``get(model) -> Tree``: the trainable tensors as float32 numpy arrays, in a fixed order.
- ``set(model, tree)``: the inverse of ``get``.
- ``export(model, folder)``: save so that ``PeftModel.from_pretrained`` (or, for the full adapter,
  ``from_pretrained`` of the model) loads it.

It may bring rules of its own: ``check(cfg)``, which gets the whole configuration and raises a
ConfigError for options of its own that cannot be, or others that do not go with it.

Where frozen weights can change in a federation (see ``fl_app.client.patches``), also:

- ``patch(model, tree, cfg)``: change them;
- ``patch_like(model, rank) -> Tree``: the names and shapes of a patch.

Where a patch must be agreed before round 1, also:

- ``setup(cfg) -> Setup or None``: how it is found, by the whole configuration; None where it needs
  nothing. See ``fl_app.adapters.setup``.
"""

from types import ModuleType
from typing import cast

from omegaconf import DictConfig

from fl_app.adapters import ffa_lora, full, lora
from fl_app.adapters.lora_sb import adapter
from fl_app.adapters.setup import Setup

ADAPTERS: dict[str, ModuleType] = {
    "ffa_lora": ffa_lora,
    "full": full,
    "lora": lora,
    "lora_sb": adapter,
}


def needed_setup(cfg: DictConfig) -> Setup | None:
    """Return what must be agreed before round 1; None for nothing, or an unknown adapter."""
    setup = getattr(ADAPTERS.get(cfg.adapter.id), "setup", None)
    return cast(Setup | None, setup(cfg)) if setup else None
