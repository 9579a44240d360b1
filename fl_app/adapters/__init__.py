"""Adapters: which tensors of a model are trained and sent.

An adapter is four functions, given as a module of this package:

- ``attach(model, cfg, seed) -> model``: make exactly the adapter's tensors trainable; their start
  depends on ``seed`` alone, so that every machine finds the same theta0.
- ``get(model) -> Tree``: the trainable tensors as float32 numpy arrays, in a fixed order.
- ``set(model, tree)``: the inverse of ``get``.
- ``export(model, folder)``: save so that ``PeftModel.from_pretrained`` (or, for those of ``WHOLE``,
  ``from_pretrained`` of the model) loads it; and, where that is not over the base that the run
  started from, the base that it is over, in the folder ``BASE`` of it.

Where frozen weights can change in a federation (see ``fl_app.client.patches``), also:

- ``patch(model, tree, cfg)``: change them;
- ``patch_like(model, rank) -> Tree``: the names and shapes of a patch.

Where something is drawn that is neither trained nor sent, and must be equal on every machine:

- ``fixed(model) -> bytes``: its digest.

Where virtual tokens stand before a text:

- ``virtual_tokens(model) -> int``: how many.

An adapter may have a second module, in ``RULES``. It is read with the configuration, before any
model library is imported, and so it imports none itself. It has some of:

- ``check(cfg)``, which gets the whole configuration and raises a ConfigError for options of its own
  that cannot be, or others that do not go with it;
- ``check_model(cfg)``, the same for the model's architecture, once transformers is imported;
- ``setup(cfg) -> Setup or None``, where a patch must be agreed before round 1: how it is found;
  None where it needs nothing. See ``fl_app.adapters.setup``.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import cast

from omegaconf import DictConfig

from fl_app.adapters.setup import Setup
from fl_app.config.named import Named

BASE = "base"  # of an exported adapter: the base model that it is over

ADAPTERS: Mapping[str, ModuleType] = Named(
    {
        "ffa_lora": "fl_app.adapters.ffa_lora",
        "full": "fl_app.adapters.full",
        "ligo": "fl_app.adapters.ligo.adapter",
        "lora": "fl_app.adapters.lora",
        "lora_sb": "fl_app.adapters.lora_sb.adapter",
        "lq_lora": "fl_app.adapters.lq_lora.adapter",
        "peft": "fl_app.adapters.peft_methods.adapter",
        "quecc": "fl_app.adapters.quecc",
        "tied": "fl_app.adapters.tied",
        "sign_mask": "fl_app.adapters.sign_mask",
    }
)
RULES: Mapping[str, ModuleType] = Named(
    {
        "full": "fl_app.adapters.full_rules",
        "ligo": "fl_app.adapters.ligo.rules",
        "lora_sb": "fl_app.adapters.lora_sb.start",
        "lq_lora": "fl_app.adapters.lq_lora.start",
        "peft": "fl_app.adapters.peft_methods.rules",
        "tied": "fl_app.adapters.tied_rules",
        "sign_mask": "fl_app.adapters.sign_mask_rules",
    }
)
WHOLE = ("full", "ligo", "quecc")  # export a model of transformers, the others an adapter of PEFT


def needed_setup(cfg: DictConfig) -> Setup | None:
    """Return what must be agreed before round 1; None for nothing, or an unknown adapter."""
    setup = getattr(RULES.get(cfg.adapter.id), "setup", None)
    return cast(Setup | None, setup(cfg)) if setup else None
