"""Which modules of a model an adapter changes, by their full names."""

import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

ALL_LINEAR = "all-linear"


def matching(
    model: PreTrainedModel, targets: str | list[str], left_out: Sequence[str]
) -> list[str]:
    """Return the full names of the targets that are not in a module that is left out.

    Parameters
    ----------
    targets : str or list of str
        As PEFT has them: ``ALL_LINEAR``, a pattern of full names, or the ends of names.
    """
    output = model.get_output_embeddings()
    found = []
    for path, module in model.named_modules():
        if _is_in(path, left_out):
            continue
        if targets == ALL_LINEAR:
            chosen = isinstance(module, (nn.Linear, Conv1D)) and module is not output
        elif isinstance(targets, str):
            chosen = re.fullmatch(targets, path) is not None
        else:
            chosen = any(path == name or path.endswith(f".{name}") for name in targets)
        if chosen:
            found.append(path)
    return found


def norms(model: PreTrainedModel, left_out: Sequence[str]) -> list[str]:
    """Return the normalizations that have a weight for each feature, and no statistics of rows.

    They are known by the names of their classes, as transformers' own rules for weight decay know
    them: its architectures have classes of their own.
    """
    return [
        path
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        and not isinstance(module, _BatchNorm)
        and isinstance(weight := getattr(module, "weight", None), Tensor)
        and weight.ndim == 1
        and not _is_in(path, left_out)
    ]


def lookups(model: PreTrainedModel) -> list[str]:
    """Return the modules that look up the vectors of tokens: those of the input embedding's weight.

    transformers ties modules by their weights: an encoder and its decoder have one each. The output
    layer, which may have the same weight, looks nothing up.
    """
    weight = model.get_input_embeddings().weight
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.weight is weight
    ]


def _is_in(path: str, modules: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in modules)
