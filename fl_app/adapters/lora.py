"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3): W = W0 + alpha/r B A.

PEFT's own LoRA; A starts Kaiming-uniform from the seed and B = 0, so the adapter starts as a no-op.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.adapters.full import frozen, get, set
from fl_app.adapters.lora_patch import is_patched, on_original_base, patch, patch_like
from fl_app.adapters.precision import modules_in_float32
from fl_app.adapters.quantized import keep_trainable
from fl_app.config import plain
from fl_app.models.head import classification_head

__all__ = ["attach", "export", "get", "patch", "patch_like", "set"]


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap ``model`` with LoRA factors; these, ``modules_to_save`` and a classifier's head train.

    What the model's class freezes gets no factors, whatever ``target_modules`` match.

    Raises
    ------
    ValueError
        If ``target_modules`` match nothing (PEFT's message lists what was asked for), a name of
        ``modules_to_save`` is that of no module, or a 4-bit base cannot be trained here.
    """
    keep_trainable(model)
    head = classification_head(model)
    # The start is drawn on the CPU and without touching the global generator: the same bits on
    # every node, whatever else the process has drawn before. A processor that cannot multiply and
    # add in one rounding (x86 before 2013) draws other last bits: its frames are refused.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config(model, cfg, lora_dropout=cfg.dropout))
    return modules_in_float32(wrapped, head)


def config(model: PreTrainedModel, cfg: DictConfig, **more: Any) -> LoraConfig:
    """Return PEFT's form of the ``adapter`` group ``cfg``, for ``model``.

    The head of a classifier is one of ``modules_to_save``, whether it is named or not.

    Parameters
    ----------
    **more
        Further arguments of PEFT's, or others than those of ``cfg``.

    Raises
    ------
    ValueError
        If a name of ``modules_to_save`` is that of no module.
    """
    head = classification_head(model)
    check_saved(model, plain(cfg.modules_to_save))
    # PEFT takes names for leaves; only a pattern covers a module with all that is in it.
    excluded = "|".join(rf"{re.escape(name)}(\..*)?" for name in [*frozen(model), *head])
    arguments: dict[str, Any] = {
        "task_type": TaskType.SEQ_CLS if head else None,
        "r": cfg.r,
        "lora_alpha": cfg.alpha,
        "target_modules": plain(cfg.target_modules),
        "exclude_modules": excluded or None,
        "modules_to_save": list(dict.fromkeys([*plain(cfg.modules_to_save), *head])) or None,
    }
    return LoraConfig(**arguments | more)


def check_saved(
    model: PreTrainedModel, names: Iterable[str], key: str = "adapter.modules_to_save"
) -> None:
    """Check that each of ``modules_to_save`` is there; PEFT is silent about names it does not find.

    Raises
    ------
    ValueError
        Names ``key``, where they were set, and the name.
    """
    paths = [path for path, _ in model.named_modules()]
    for name in names:
        if not any(path.endswith(name) for path in paths):
            raise ValueError(f"{key}={name}: the model has no module of that name")


def export(model: PeftModel, folder: Path) -> None:
    """Save in PEFT's format, for ``PeftModel.from_pretrained(base, folder)``.

    The base is the one that the run started from: what patches changed of it since is in the
    adapter, whose rank grows by theirs.
    """
    if is_patched(model):
        state, r = on_original_base(model)
        save(model, folder, state, r=r, lora_alpha=r)
    else:
        save(model, folder, model.state_dict())


def save(model: PeftModel, folder: Path, state: dict[str, Tensor], **config: int) -> None:
    """Save the adapter's part of ``state``, a state dict of ``model``, in PEFT's format.

    ``config`` goes into the saved configuration in place of what the model's own says.
    What PEFT adds that says nothing elsewhere is left out: the path of a base model on this
    machine, and a model card without content.
    """
    # No adapter here changes the vocabulary; to find that out PEFT would ask the hub.
    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    tidy(folder, **config)


def tidy(folder: Path, **config: Any) -> None:
    """Put ``config`` into a saved configuration, and leave out what names this machine."""
    path = folder / "adapter_config.json"
    saved = {**json.loads(path.read_text()), **config}
    if Path(saved["base_model_name_or_path"] or "").is_absolute():
        saved["base_model_name_or_path"] = None
    for name in ("target_modules", "exclude_modules", "feedforward_modules"):
        if isinstance(saved.get(name), list):  # a set of PEFT's, in another order in every process
            saved[name].sort()
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
