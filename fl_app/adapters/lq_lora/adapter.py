"""LQ-LoRA (Guo et al. 2023, https://arxiv.org/abs/2311.12023): W = Q + L1 L2.

Q has few bits a weight and never changes; L1 L2 begins as the low-rank part of what Q leaves out of
W, and is the LoRA that trains: B = L1 / s, A = L2, with PEFT's s = alpha/r. The model starts as
Q + L1 L2, not as W. `normal_float` is the quantizer, `decompose` the alternation, and `budget`
chooses how many bits each matrix gets.

No library computes with 2 or 3 bits, or with blocks of several sizes: Q is kept dequantized, in the
type of the base. What it would take is counted from its packed bytes, and is in ``lq_lora.json`` of
an export. The base of an export is Q, which stands beside the adapter: L1 and L2 over W would be
another model.
"""

import copy
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from omegaconf import DictConfig
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fl_app.adapters import BASE, lora
from fl_app.adapters.full import get, set
from fl_app.adapters.lora_sb.layers import ADAPTER
from fl_app.adapters.lq_lora.budget import choose
from fl_app.adapters.lq_lora.decompose import Decomposition, Fisher, decompose
from fl_app.adapters.lq_lora.normal_float import Width
from fl_app.adapters.lq_lora.start import NONE, widths
from fl_app.adapters.quantized import is_quantized
from fl_app.tree import Tree

__all__ = ["attach", "export", "fixed", "get", "patch", "patch_like", "set"]

logger = logging.getLogger("thinwire")

ABOUT = "lq_lora.json"  # of an export: how every matrix is stored


class Stored(NamedTuple):
    """What is kept of the decomposition of a matrix, on its layer, beside Q, L1 and L2.

    Attributes
    ----------
    width : Width
        How Q is stored.
    nbytes : int
        Its packed bytes.
    digest : bytes
        See `Quantized.digest`.
    gap, norm : float
        ||W - Q - L1 L2|| (weighted where there is a Fisher matrix), and ||W||.
    """

    width: Width
    nbytes: int
    digest: bytes
    gap: float
    norm: float


class _Layer(LoraLayer):
    in_features: int
    out_features: int
    stored: Stored


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap the linear layers of ``model`` with LoRA, and put Q, L1 and L2 in their places.

    With ``cfg.fisher`` that is left to `patch`: the model then still computes what it did. Machines
    that round otherwise find other last bits: their frames are refused.

    Raises
    ------
    ValueError
        If the base is quantized already, a module is not linear or has no such rank, the budget is
        too small, or see `lora.attach`.
    """
    if is_quantized(model):
        raise ValueError(
            "adapter=lq_lora quantizes the base itself: set model.quantization=none, or "
            "adapter=lora over the base in 4 or 8 bits"
        )
    wrapped = lora.attach(model, cfg, seed)
    for name, module in wrapped.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module.get_base_layer(), nn.Linear):
            raise ValueError(
                f"adapter=lq_lora is for linear layers: leave {name} out of adapter.target_modules"
            )
    for name, layer in layers(wrapped).items():
        if cfg.r > min(layer.in_features, layer.out_features):
            raise ValueError(
                f"adapter.r={cfg.r} is more than the rank of {name}, [{layer.out_features}, "
                f"{layer.in_features}]: lower it, or leave the module out of adapter.target_modules"
            )
    if cfg.fisher == NONE:
        _install(wrapped, cfg, {}, seed)
    return wrapped


def patch(model: PeftModel, tree: Tree, cfg: DictConfig) -> None:
    """Decompose every matrix by the importance of its weights, see `start.importance`.

    Raises
    ------
    ValueError
        If the tree is not of this model.
    """
    like = patch_like(model, 0)
    if [(n, x.shape) for n, x in tree.items()] != [(n, x.shape) for n, x in like.items()]:
        raise ValueError("the importance is not that of this model: names or shapes differ")
    tensors = {name: torch.from_numpy(x).abs() for name, x in tree.items()}
    importance = {
        name: Fisher(tensors[f"{name}.rows"].flatten(), tensors[f"{name}.columns"].flatten())
        for name in layers(model)
    }
    _install(model, cfg, importance, 0)


def patch_like(model: PeftModel, rank: int) -> Tree:
    """Return the names and shapes of the importance of all matrices: [out, 1] and [1, in]."""
    return {
        f"{name}.{part}": np.zeros(shape, np.float32)
        for name, layer in layers(model).items()
        for part, shape in (
            ("rows", (layer.out_features, 1)), ("columns", (1, layer.in_features)),
        )
    }  # fmt: skip


def fixed(model: PeftModel) -> bytes:
    """Return a digest of Q, which every machine must have found alike; of nothing before it is."""
    sha = hashlib.sha256()
    for layer in layers(model).values():
        if hasattr(layer, "stored"):
            sha.update(layer.stored.digest)
    return sha.digest()


def export(model: PeftModel, folder: Path) -> None:
    """Save L1 and L2 in PEFT's format, and beside them the base that they belong to."""
    lora.export(model, folder)
    found = {name: layer.stored for name, layer in layers(model).items()}
    said = {
        name: {**one.width._asdict(), "bytes": one.nbytes, "gap": one.gap, "norm": one.norm}
        for name, one in found.items()
    }
    (folder / ABOUT).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    base = copy.deepcopy(model).unload()
    base.config.name_or_path = ""
    base.save_pretrained(str(folder / BASE))


def layers(model: nn.Module) -> dict[str, _Layer]:
    """Return the layers with L1 and L2 by name, in the model's order."""
    return {
        name: cast(_Layer, module)
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A
    }


def _install(
    model: PeftModel, cfg: DictConfig, importance: Mapping[str, Fisher], seed: int
) -> None:
    """Replace W by Q, and B and A by L1 / s and L2, in every layer."""
    found = layers(model)
    weights = {
        name: cast(nn.Linear, layer.get_base_layer()).weight for name, layer in found.items()
    }
    chosen = _widths(weights, cfg, importance, seed)
    for name, layer in found.items():
        weight = weights[name]
        made = decompose(
            weight, cfg.r, chosen[name], importance.get(name),
            iterations=cfg.iterations, seed=seed,
        )  # fmt: skip
        layer.stored = _stored(made, weight)
        # A new parameter: one that is tied to it, such as an embedding, stays as it is.
        q = made.quantized.dequantized().to(weight.device, weight.dtype)
        cast(nn.Linear, layer.get_base_layer()).weight = nn.Parameter(q, requires_grad=False)
        _put(layer.lora_B[ADAPTER], made.left / layer.scaling[ADAPTER])
        _put(layer.lora_A[ADAPTER], made.right)
    logger.info("adapter=lq_lora: %s", summary(model))


def _widths(
    weights: Mapping[str, Tensor], cfg: DictConfig, importance: Mapping[str, Fisher], seed: int
) -> dict[str, Width]:
    """Return how each matrix is stored: the choice of least error within the budget."""
    known = widths(cfg)

    def error(name: str, width: Width) -> float:
        if len(known) == 1:
            return 0.0  # there is nothing to compare
        return decompose(
            weights[name], cfg.r, width, importance.get(name),
            iterations=cfg.search_iterations, seed=seed,
        ).errors[-1]  # fmt: skip

    costs = [[error(name, width) ** 2 for width in known] for name in weights]
    nbytes = [[width.nbytes(w.numel()) for width in known] for w in weights.values()]
    count = sum(w.numel() for w in weights.values())
    chosen = choose(np.array(costs), np.array(nbytes), cfg.budget * count / 8)
    return {name: known[k] for name, k in zip(weights, chosen, strict=True)}


def _stored(made: Decomposition, weight: Tensor) -> Stored:
    nbytes = sum(map(len, made.quantized.packed().values()))
    width, digest = made.quantized.width, made.quantized.digest()
    return Stored(width, nbytes, digest, made.errors[-1], float(weight.detach().float().norm()))


def _put(linear: nn.Module, values: Tensor) -> None:
    cast(nn.Linear, linear).weight.data.copy_(values)


def summary(model: nn.Module) -> str:
    """Return in words how many bits Q takes, and how far Q + L1 L2 is from W."""
    found = [layer.stored for layer in layers(model).values()]
    count = sum(layer.in_features * layer.out_features for layer in layers(model).values())
    packed = sum(one.nbytes for one in found)
    gap, norm = (math.hypot(*(getattr(one, key) for one in found)) for key in ("gap", "norm"))
    return (
        f"{len(found)} matrices of {count:,} weights: {8 * packed / count:.3f} bits a weight, "
        f"{packed:,} bytes packed (kept dequantized); "
        f"||W - Q - L1 L2|| is {gap:.4g}, and ||W|| {norm:.4g}"
    )
