"""A trained adapter merged into its base: a model that transformers loads without PEFT."""

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding
from torch import nn

from fl_app.config import read_text
from fl_app.files import atomic_folder
from fl_app.models.sources import quiet
from fl_app.runs import exported, model_card, trained
from fl_app.runs.base_model import Base
from fl_app.runs.trained import Place


def write(place: Place, out: Path) -> Any:
    """Write the merged model with tokenizer, generation settings and card; return it.

    Sums are computed in float32. The weights have the type of the base's; a base of 4 or 8 bits is
    dequantized, and the model is in float32: a small update would not survive in these bits.

    Raises
    ------
    FileExistsError
        If ``out`` exists and is not an empty folder.
    ValueError
        If the method changes no weights, so that there is nothing to merge; or the merged model
        would be another one when it is loaded.
    """
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    with atomic_folder(out) as folder:
        found = trained.load(place, dense=True)
        model = merged(found.model)
        with quiet():  # no bar of shards
            model.save_pretrained(str(folder))
        own = model.generation_config if model.can_generate() else None
        exported.Parts(place.cfg, found.tokenizer, found.task, own, base_of(place)).write(folder)
        (folder / exported.CARD).write_text(_card(place), encoding="utf-8")
        _check_loads(model, folder)
    return model


def _card(place: Place) -> str:
    card = None if place.folder is None else place.folder / exported.CARD
    said = read_text(card) if card is not None and card.is_file() else ""
    return model_card.merged(said, place.cfg)


def base_of(place: Place) -> Base:
    """Return what the folder says of its base."""
    said = place.cfg.base
    return Base(said.get("id"), said.get("revision"), said.get("sha256"), "")


def merged(model: Any) -> Any:
    """Return the base model with the adapter in its weights."""
    if not isinstance(model, PeftModel):
        return model
    kind = str(model.active_peft_config.peft_type.value)
    if model.active_peft_config.is_prompt_learning or not hasattr(
        model.base_model, "merge_and_unload"
    ):
        raise ValueError(f"{kind} {CANNOT}")
    dtype = next((p.dtype for p in model.parameters() if p.dtype == torch.bfloat16), torch.float32)
    _untie(model)
    try:
        whole: Any = nn.Module.float(model).merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"{kind} {CANNOT} ({error})") from None
    return nn.Module.to(whole, dtype)  # that of a model loaded quantized refuses


def _untie(model: PeftModel) -> None:
    """Give each embedding with an adapter a weight of its own.

    PEFT changes weights in place: one that modules share would be changed once for each of them,
    and for an output layer without an adapter too.
    """
    for one in model.modules():
        if isinstance(one, Embedding):
            base = cast(nn.Embedding, one.get_base_layer())
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)


CANNOT = (
    "cannot be merged: PEFT has no weights of the base to put it into. Use the adapter with PEFT "
    "as its card says"
)


def _check_loads(model: Any, folder: Path) -> None:
    """Check that what was saved is loaded again as it is; tied weights may be lost."""
    with quiet():
        again = type(model).from_pretrained(str(folder), dtype=model.dtype)
    found = again.state_dict()
    for name, value in model.state_dict().items():
        if name not in found or not torch.equal(found[name].cpu(), value.cpu()):
            raise ValueError(
                f"the model cannot be merged: {name} is tied to another weight in the base and is "
                "not in the trained model, so that transformers would not load it. Use the adapter "
                "with PEFT as its card says"
            )


__all__ = ["base_of", "merged", "write"]
