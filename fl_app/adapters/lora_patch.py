"""Changes of the weights under a LoRA: W0 <- W0 + alpha/r B A, of any rank.

A patch is a Tree of NAME.B [out, rank] and NAME.A [rank, in] for every adapted module. Strategies
work with products of B and A alone; the factor alpha/r, the same for a module's own B and A and for
those of a patch, comes in here.

What was added stays known as factors beside the layer, so that an export can bring the model to
the base as it was.
"""

from typing import NamedTuple, cast

import torch
from omegaconf import DictConfig
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fl_app.adapters.lora_sb.layers import ADAPTER
from fl_app.adapters.quantized import is_quantized
from fl_app.tree import Tree


class Product(NamedTuple):
    """A matrix [out, in] as its factors, float32 on the CPU."""

    B: Tensor  # [out, rank]
    A: Tensor  # [rank, in]

    def plus(self, other: "Product") -> "Product":
        """Return the sum; its rank is that of both, and never more than a side of the matrix."""
        total = Product(torch.cat([self.B, other.B], dim=1), torch.cat([self.A, other.A]))
        out, rank, into = *total.B.shape, total.A.shape[1]
        if rank <= min(out, into):
            return total
        dense = total.B @ total.A
        return Product(torch.eye(out), dense) if out <= into else Product(dense, torch.eye(into))

    def padded(self, rank: int) -> "Product":
        """Return the same matrix with zeros for the rest of ``rank``."""
        rest = rank - self.B.shape[1]
        return Product(
            nn.functional.pad(self.B, (0, rest)), nn.functional.pad(self.A, (0, 0, 0, rest))
        )


class _Layer(LoraLayer):
    """What PEFT's LoRA layers have in common, and what was added to the weight of one."""

    in_features: int
    out_features: int
    fan_in_fan_out: bool
    patched: Product


def patch_like(model: PeftModel, rank: int) -> Tree:
    """Return a Tree of the names and shapes of a patch of ``rank``."""
    tree = {}
    for name, layer in _layers(model).items():
        tree[f"{name}.B"] = torch.zeros(layer.out_features, rank).numpy()
        tree[f"{name}.A"] = torch.zeros(rank, layer.in_features).numpy()
    return tree


def patch(model: PeftModel, tree: Tree, cfg: DictConfig) -> None:
    """Add alpha/r B A to the frozen weight of every adapted module.

    A base of less than float32 rounds the sum; what an export says of it is not rounded.

    Raises
    ------
    ValueError
        If the patch is not of this model, or the base is quantized.
    """
    if is_quantized(model):
        raise ValueError(
            "the weights of a base in 4 or 8 bits cannot be changed: set model.quantization=none, "
            "or a strategy that leaves them alone, such as fedavg or flex_lora"
        )
    found = _layers(model)
    if list(tree) != [f"{name}.{part}" for name in found for part in "BA"]:
        raise ValueError("the patch is not of this model: its modules are others")
    added = {name: _scaled(layer, tree, name) for name, layer in found.items()}
    for name, layer in found.items():
        base = cast(nn.Linear, layer.get_base_layer())
        delta = added[name].B @ added[name].A
        delta = (delta.T if layer.fan_in_fan_out else delta).to(base.weight.device)
        # A new parameter: one that is tied to it, such as an embedding, stays as it is.
        weight = (base.weight.detach().float() + delta).to(base.weight.dtype)
        base.weight = nn.Parameter(weight, requires_grad=False)
        before = getattr(layer, "patched", None)
        layer.patched = before.plus(added[name]) if before else added[name]


def is_patched(model: PeftModel) -> bool:
    """Return whether frozen weights have been changed."""
    return any(hasattr(layer, "patched") for layer in _layers(model).values())


def on_original_base(model: PeftModel) -> tuple[dict[str, Tensor], int]:
    """Return a state dict of one LoRA for the base as it was, with alpha = r, and its r.

    Its product is that of the model's own B and A and of all patches, without loss: r is their
    ranks' sum, or the smaller side of the module where that is less.
    """
    state = model.state_dict()
    found = _layers(model)
    total = {}
    for name, layer in found.items():
        own = {f"{name}.{part}": state[_key(name, part)].float().cpu().numpy() for part in "BA"}
        total[name] = layer.patched.plus(_scaled(layer, own, name))
    r = max(product.B.shape[1] for product in total.values())
    for name, product in total.items():
        whole = product.padded(r)
        state[_key(name, "B")], state[_key(name, "A")] = whole.B, whole.A
    return state, r


def _scaled(layer: _Layer, tree: Tree, name: str) -> Product:
    """Return alpha/r B A of a module; alpha/r is in B."""
    b, a = (torch.from_numpy(tree[f"{name}.{part}"]) for part in "BA")
    if b.shape[0] != layer.out_features or a.shape != (b.shape[1], layer.in_features):
        raise ValueError(
            f"{name}: B {tuple(b.shape)} and A {tuple(a.shape)} are no product of "
            f"{layer.out_features} x {layer.in_features}"
        )
    return Product(layer.scaling[ADAPTER] * b, a)


def _layers(model: PeftModel) -> dict[str, _Layer]:
    return {
        name: cast(_Layer, module)
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A
    }


def _key(name: str, part: str) -> str:
    return f"{name}.lora_{part}.{ADAPTER}.weight"
