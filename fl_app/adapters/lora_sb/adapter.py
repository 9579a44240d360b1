"""LoRA-SB (Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557): W = W0 + alpha/r B R A.

Only R (r x r) trains and is sent: r^2 numbers a module, whatever its width. The product is linear
in R, so that a mean of the clients' R is the mean of their updates (Fed-SB, Singhal et al. 2025,
https://arxiv.org/abs/2502.15436).
"""

from pathlib import Path

import torch
from omegaconf import DictConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from fl_app.adapters import lora
from fl_app.adapters.full import get, set
from fl_app.adapters.lora_sb.factors import from_tree, install, installed, to_tree
from fl_app.adapters.lora_sb.layers import ADAPTER, SandwichLayer, layers, parts, sandwiched
from fl_app.adapters.precision import modules_in_float32
from fl_app.adapters.quantized import full_precision, keep_trainable
from fl_app.models.head import classification_head
from fl_app.tree import Tree

__all__ = ["attach", "export", "get", "merged", "patch", "patch_like", "set"]


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap the linear layers of ``model`` with B R A; only R (and ``modules_to_save``) train.

    The state is that of a model whose gradients nobody has seen: R = 0, so that the model computes
    what it did, and B and A random with orthonormal columns and rows, drawn on the CPU from
    ``seed``: the same on every machine but for the rounding of a QR decomposition, of which
    processors of another kind make other last bits. ``lora_sb.factors.install`` puts B, R and A of
    the gradients in their place.

    Raises
    ------
    ValueError
        If ``target_modules`` match nothing or a module that is not linear, if ``r`` exceeds the
        smaller side of a module, or if a 4-bit base cannot be trained here.
    """
    keep_trainable(model)
    head = classification_head(model)
    config = sandwiched(lora.config(model, cfg))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    others = [
        name
        for name, module in wrapped.named_modules()
        if isinstance(module, LoraLayer) and not isinstance(module, SandwichLayer)
    ]
    if others:
        raise ValueError(
            f"adapter=lora_sb is for linear layers: leave {others[0].removeprefix(PREFIX)} out of "
            "adapter.target_modules"
        )
    _draw(layers(wrapped), cfg.r, torch.Generator().manual_seed(seed))
    return modules_in_float32(wrapped, head)


PREFIX = "base_model.model."  # of PEFT's wrapper, before the model's own names


def _draw(wrapped: dict[str, SandwichLayer], r: int, generator: torch.Generator) -> None:
    for name, layer in wrapped.items():
        smaller = min(layer.in_features, layer.out_features)
        if r > smaller:
            raise ValueError(
                f"adapter.r={r} should be at most {smaller}, the smaller side of "
                f"{name.removeprefix(PREFIX)}: lower it, or leave the module out of "
                "adapter.target_modules"
            )
        for outer in (parts(layer).B, parts(layer).A):
            drawn = nn.init.orthogonal_(torch.empty(outer.weight.shape), generator=generator)
            outer.weight.data.copy_(drawn)


def export(model: PeftModel, folder: Path) -> None:
    """Save as a plain LoRA of the same product (lora_B <- B R) for any PEFT to load."""
    state = model.state_dict()
    for name, layer in layers(model).items():
        state[f"{name}.lora_B.{ADAPTER}.weight"] = layer.folded_B().detach()
        del state[f"{name}.lora_R.{ADAPTER}.weight"]
    lora.save(model, folder, state)


def patch(model: PeftModel, tree: Tree, cfg: DictConfig) -> None:
    """Install B, R0 and A of every module.

    Raises
    ------
    ValueError
        If they are not those of this model.
    """
    install(model, from_tree(tree), official_numerics=cfg.official_numerics)


def patch_like(model: PeftModel, rank: int) -> Tree:
    """Return a Tree of the names and shapes of B, R and A; their rank is the adapter's."""
    return to_tree(installed(model))


def merged(model: PeftModel) -> nn.Module:
    """Return a float32 copy of the base model with B R A added to its weights.

    A base in 4 or 8 bits is dequantized: a small update would not survive them.
    """
    return full_precision(model).merge_and_unload()
