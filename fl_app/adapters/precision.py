"""What is trained is float32, whatever type the base is held in.

A step of training changes a weight by less than bfloat16 can hold: most would not move at all.
PEFT casts its own factors; here are whole modules that are trained over a base of fewer bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from fl_app.adapters.lora_sb.layers import ADAPTER


def whole_in_float32(model: PreTrainedModel) -> None:
    """Cast a model to float32, of which all weights are trained."""
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in model.parameters()):
        nn.Module.float(model)


def modules_in_float32(model: PeftModel, heads: Sequence[str]) -> PeftModel:
    """Cast the copies of ``modules_to_save`` to float32, and what they get and return to fit.

    Parameters
    ----------
    model : PeftModel
        A model whose other trained tensors are float32.
    heads : sequence of str
        Modules whose output nothing but the loss reads: it stays float32.
    """
    for name, module in model.named_modules():
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        trained = module.modules_to_save[ADAPTER]
        if _dtype(trained) == _dtype(module.original_module) == torch.float32:
            continue
        nn.Module.float(trained)
        module.register_forward_pre_hook(_cast_in, with_kwargs=True)
        if not name.endswith(tuple(f".{head}" for head in heads)):
            module.register_forward_hook(_cast_out)
    return model


def _dtype(module: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


# On the wrapper, and by its types at the time: a merged copy in float32 has neither.
def _cast_in(module: Any, args: Any, kwargs: Any) -> Any:
    inner = module.original_module if module.disable_adapters else module.modules_to_save[ADAPTER]
    dtype = _dtype(inner)
    return tuple(_cast(x, dtype) for x in args), {k: _cast(x, dtype) for k, x in kwargs.items()}


def _cast_out(module: Any, args: Any, output: Any) -> Any:
    dtype = _dtype(module.original_module)
    if isinstance(output, tuple):
        return tuple(_cast(x, dtype) for x in output)
    return _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value
