"""A LoRA of the smaller model as one of the larger model. Ours: the paper grows no adapters.

LiGO's map is linear, and so it maps a change of a weight as it maps the weight (``operator``)::

    [I; E_out] (sum_j w_lj s_j B_j A_j) [I, E_in^T] = B A
    B = [I; E_out] [w_l1 s_1 B_1, ..., w_lL1 s_L1 B_L1]
    A = [A_1; ...; A_L1] [I, E_in^T]                          s_j: alpha / r of the smaller LoRA

Nothing is cut off: the grown adapter in the grown base is what the operator makes of the smaller
adapter in the smaller base. The price is the rank, r times the number of layers that w_l mixes: r
as long as each layer comes of one, r L1 once w was trained. Modules that the adapter trains whole,
such as a classifier's head, are mapped as weights are.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fl_app.adapters.ligo.operator import Growth, GrowthOperator
from fl_app.adapters.lora_patch import Product
from fl_app.adapters.lora_sb.layers import ADAPTER
from fl_app.adapters.precision import modules_in_float32
from fl_app.models.head import classification_head


def check(config: PeftConfig) -> None:
    """Check that an adapter changes weights by B A alone, in every layer alike.

    Raises
    ------
    ValueError
        If it is of another method, or a variant of LoRA.
    """
    if config.peft_type != PeftType.LORA:
        method = PeftType(config.peft_type).value
        raise ValueError(f"it is of the method {method}: only a LoRA can be grown")
    lora = cast(LoraConfig, config)
    variants = {
        "use_dora": lora.use_dora,
        "bias": lora.bias != "none",
        "lora_bias": lora.lora_bias,
        "layers_to_transform": lora.layers_to_transform,
        "layers_pattern": lora.layers_pattern,
        "layer_replication": lora.layer_replication,
        "target_parameters": lora.target_parameters,
        "trainable_token_indices": lora.trainable_token_indices,
    }
    if odd := [name for name, value in variants.items() if value]:
        raise ValueError(f"it is a LoRA with {odd[0]}: only a plain one can be grown")


def grown(operator: GrowthOperator, small: PeftModel, large: PreTrainedModel) -> PeftModel:
    """Return ``large`` with what the operator makes of the LoRA of ``small``.

    Parameters
    ----------
    operator : GrowthOperator
        Between the bases of both.
    small : PeftModel
        The smaller model with its adapter, see `check`.
    large : PreTrainedModel
        The larger model, with weights of its own.

    Raises
    ------
    ValueError
        If the adapter changes what is no linear layer, or a tied weight.
    """
    layers = dict(_layers(small))
    products: dict[str, Product] = {}
    with torch.no_grad():
        for name, growth in operator.growths.items():
            if name.endswith(".weight") and (found := _product(operator, growth, layers)):
                products[name.removesuffix(".weight")] = found
    mapped = {
        source.removesuffix(".weight")
        for path in products
        for source in operator.growths[f"{path}.weight"].sources
    }
    if lost := sorted({*layers} - mapped):
        raise ValueError(f"the adapter changes {lost[0]}, whose weight is another one's too")
    rank = max(found.A.shape[0] for found in products.values())
    config = cast(LoraConfig, small.peft_config[ADAPTER])
    of_large = replace(
        config, r=rank, lora_alpha=rank, rank_pattern={}, alpha_pattern={}, use_rslora=False,
        target_modules=[*products], exclude_modules=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        wrapped = get_peft_model(large, of_large)
    modules_in_float32(wrapped, classification_head(large))
    with torch.no_grad():
        for path, layer in _layers(wrapped):
            whole = products[path].padded(rank)
            _factor(layer.lora_B).copy_(whole.B)
            _factor(layer.lora_A).copy_(whole.A)
        trained = dict(_whole(small))
        for name, parameter in _whole(wrapped):
            how = operator.growths.get(name)  # None for what does not grow
            sources = [trained[one] for one in (how.sources if how else [name])]
            parameter.copy_(operator.mapped(how, sources) if how else sources[0])
    return wrapped


def _product(operator: GrowthOperator, growth: Growth, layers: dict[str, Linear]) -> Product | None:
    """Return B A of a weight of the larger model; None if none of its sources has an adapter."""
    w = operator.mixing(growth)
    sources = [layers.get(name.removesuffix(".weight")) for name in growth.sources]
    shares = [1.0] * len(sources) if w is None else w.tolist()
    mixed = [(share, one) for share, one in zip(shares, sources, strict=True) if one is not None]
    if not mixed:
        return None
    # A layer of share 0 would only add to the rank; of shares 0 alone, one stays.
    mixed = [(share, one) for share, one in mixed if share] or mixed[:1]
    columns = [w * one.scaling[ADAPTER] * _factor(one.lora_B).float() for w, one in mixed]
    rows = [_factor(one.lora_A).float() for _, one in mixed]
    out, into = growth.axes
    return Product(
        B=operator.widened(torch.cat(columns, dim=1), 0, out),
        A=operator.widened(torch.cat(rows), 1, into),
    )


def _factor(of: nn.ModuleDict) -> Tensor:
    return cast(nn.Linear, of[ADAPTER]).weight


def _layers(model: PeftModel) -> Iterator[tuple[str, Linear]]:
    """Yield the path in the base model of each layer that has factors, and the layer."""
    for path, module in model.get_base_model().named_modules():
        if isinstance(module, Linear):
            yield path, module
        elif isinstance(module, LoraLayer):
            raise ValueError(f"the adapter changes {path}, which is no linear layer")


def _whole(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of modules that are trained whole, by their names in the base model."""
    copies = f".modules_to_save.{ADAPTER}"
    for name, parameter in model.get_base_model().named_parameters():
        if f"{copies}." in name:
            yield name.replace(copies, ""), parameter
