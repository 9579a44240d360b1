"""Bases in 4 or 8 bits of bitsandbytes: what training over them needs, and full-precision copies.

Two faults of bitsandbytes on CPUs, both silent, are met here:

- After a forward pass in evaluation mode a 4-bit layer on a CPU with AVX512-BF16 repacks its
  weights, and every later gradient through it is zero.
- With AVX512, 4-bit weights whose last dimension is no multiple of the block are read wrongly,
  unless they are read as one row.
"""

import copy
from typing import TypeVar, cast

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import Tensor, nn
from transformers import PreTrainedModel

QUANTIZED = (Linear4bit, Linear8bitLt)
Model = TypeVar("Model", bound=nn.Module)


def keep_trainable(model: nn.Module) -> None:
    """Make sure that gradients pass through every 4-bit layer of ``model``, now and later.

    Raises
    ------
    ValueError
        If a layer has been repacked already, or if bitsandbytes multiplies wrongly by its weight
        on this machine.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        state = _state(layer)
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                f"the 4-bit layer {name} has been used for evaluation and was repacked, after "
                "which it has no gradients: attach the adapter to a freshly loaded model"
            )
        if layer.in_features % state.blocksize and not _reads_rows(layer):
            raise ValueError(
                f"bitsandbytes on this CPU computes wrongly with the 4-bit layer {name}: its "
                f"{layer.in_features} inputs are no multiple of the block of "
                f"{state.blocksize}; load the model in 8 bits or in full, or "
                "keep this module out of quantization (llm_int8_skip_modules)"
            )
        layer.support_avx512bf16_for_cpu = False


def dense_weight(layer: nn.Linear) -> Tensor:
    """Return the weight of a linear layer, [out, in]; float32 if it was quantized."""
    if isinstance(layer, Linear4bit):
        row = copy.copy(_state(layer))
        row.shape = torch.Size([layer.out_features * layer.in_features])
        packed = layer.weight.data.reshape(-1, 1)
        flat = functional.dequantize_4bit(packed, row)
        return flat.reshape(layer.out_features, layer.in_features).float()
    if isinstance(layer, Linear8bitLt):
        weight = cast(Int8Params, layer.weight)
        scales = layer.state.SCB if weight.SCB is None else weight.SCB
        return functional.int8_vectorwise_dequant(weight.data, cast(Tensor, scales)).float()
    return layer.weight


def dense(layer: nn.Linear) -> nn.Linear:
    """Return a copy of a quantized layer as a float32 ``nn.Linear``, frozen."""
    copied = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    copied.weight = nn.Parameter(dense_weight(layer), requires_grad=False)
    if layer.bias is not None:
        copied.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return copied.train(layer.training)


def is_quantized(model: nn.Module) -> bool:
    """Return whether any layer of ``model`` is in 4 or 8 bits."""
    return any(isinstance(module, QUANTIZED) for module in model.modules())


def full_precision(model: Model) -> Model:
    """Return a copy of ``model`` with every weight in float32; the model stays as it is.

    Quantized layers are dequantized one by one; the copy has them as ``nn.Linear``.
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QUANTIZED):
                setattr(parent, name, dense(child))
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            _forget_quantization(module)
    # Of nn.Module: that of a model loaded quantized refuses to be cast.
    return nn.Module.float(model)


def _forget_quantization(model: PreTrainedModel) -> None:
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "hf_quantizer"):
        model.__dict__.pop(mark, None)
    model.config.__dict__.pop("quantization_config", None)


def _state(layer: Linear4bit) -> functional.QuantState:
    return cast(Params4bit, layer.weight).quant_state


def _reads_rows(layer: Linear4bit) -> bool:
    """Return whether bitsandbytes reads the layer's weight in rows as it does in one."""
    rows = functional.dequantize_4bit(layer.weight.data, _state(layer))
    return torch.equal(rows.float(), dense_weight(layer))
