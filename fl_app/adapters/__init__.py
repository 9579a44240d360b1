"""Adapters: which tensors of a model are trained and sent.

An adapter is four functions, given as a module of this package:

- ``attach(model, cfg, seed) -> model``: make exactly the adapter's tensors trainable; their start
  depends on ``seed`` alone, so that every machine finds the same theta0.
- ``get(model) -> Tree``: the trainable tensors as float32 numpy arrays, in a fixed order.
- ``set(model, tree)``: the inverse of ``get``.
- ``export(model, folder)``: save so that ``PeftModel.from_pretrained`` (or, for the full adapter,
  ``from_pretrained`` of the model) loads it.

Where frozen weights can change in a federation (see ``fl_app.client.patches``), also:

- ``patch(model, tree, cfg)``: change them;
- ``patch_like(model, rank) -> Tree``: the names and shapes of a patch.
"""

from types import ModuleType

from fl_app.adapters import ffa_lora, full, lora
from fl_app.adapters.lora_sb import adapter

ADAPTERS: dict[str, ModuleType] = {
    "ffa_lora": ffa_lora,
    "full": full,
    "lora": lora,
    "lora_sb": adapter,
}
