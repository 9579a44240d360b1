"""The importance of weights: the diagonal of the empirical Fisher matrix, as row and column means.

LQ-LoRA (Guo et al. 2023, https://arxiv.org/abs/2311.12023), section 3.3: F = sum over examples of
the squared gradient of the loss for W. An example is a row of the data set.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fl_app.adapters.lora_sb.gradients import differentiable, seeded
from fl_app.faults import FaultError
from fl_app.tree import Tree


def importance(model: PeftModel, examples: Iterable[Mapping[str, Tensor]], seed: int) -> Tree:
    """Return NAME.rows [out, 1] and NAME.columns [1, in], the means of F, of every adapted layer.

    Parameters
    ----------
    model : PeftModel
        The model before its weights are quantized.
    examples : iterable of mappings
        Batches of one row, as the model's ``forward`` takes them.
    seed : int
        Of dropout.

    Raises
    ------
    FaultError
        If there are no examples, or a gradient is not finite.
    """
    weights = {
        name: cast(nn.Linear, layer.get_base_layer()).weight
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    found = {
        name: (torch.zeros(w.shape[0], 1), torch.zeros(1, w.shape[1]))
        for name, w in weights.items()
    }
    device = next(iter(weights.values())).device
    count = 0
    with differentiable(model, [*weights.values()]), seeded(seed, device):
        for batch in examples:
            loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
            gradients = torch.autograd.grad(loss, [*weights.values()], allow_unused=True)
            for (rows, columns), gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    squared = gradient.to("cpu", torch.float32) ** 2
                    rows += squared.mean(1, keepdim=True)
                    columns += squared.mean(0, keepdim=True)
            count += 1
    if not count:
        raise FaultError("no_rows", "the importance of weights wants at least one row, it has none")
    if not all(torch.isfinite(part).all() for parts in found.values() for part in parts):
        raise FaultError("diverged", "a gradient of the base model is not finite: is it sound?")
    return {
        f"{name}.{part}": values.numpy()
        for name, parts in found.items()
        for part, values in zip(("rows", "columns"), parts, strict=True)
    }
