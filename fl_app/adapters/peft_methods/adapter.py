"""Any method of PEFT: what PEFT makes trainable is trained and sent, and PEFT saves and loads it.

The start is drawn from the seed, and so is what a method draws and never trains, such as the
projections of VeRA: every machine makes it again, and its digest is in the fingerprint of the run.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PeftConfig,
    PeftModel,
    PeftType,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import MODEL_FOR_MASKED_LM_MAPPING as MASKED
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fl_app.adapters.fixed import digest
from fl_app.adapters.full import frozen, get, set
from fl_app.adapters.lora import check_saved, save
from fl_app.adapters.peft_methods import declared, support
from fl_app.adapters.precision import modules_in_float32
from fl_app.adapters.quantized import keep_trainable
from fl_app.adapters.targets import ALL_LINEAR, matching
from fl_app.config import plain
from fl_app.models.head import classification_head

__all__ = ["attach", "export", "fixed", "get", "set", "virtual_tokens"]

# Arguments that seed what is drawn and never trained; the run's seed, unless they are given.
SEEDS = ("projection_prng_key", "proj_seed", "projection_seed", "random_seed", "random_loc_seed")
# PEFT finds the modules of these by itself.
FIND_THEIR_OWN = ("ADAPTION_PROMPT", "TRAINABLE_TOKENS")


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap ``model`` by the method ``cfg.method`` with the arguments ``cfg.args``.

    What PEFT makes trainable is trained, and a classifier's head with it.

    Raises
    ------
    ValueError
        If PEFT refuses the model or the arguments, the model is of a kind that the method is not
        for, or something that would be trained could not be sent or saved.
    """
    keep_trainable(model)
    check_kind(model, cfg.method)
    head = classification_head(model)
    before = [*model.parameters(), *model.buffers()]
    with torch.random.fork_rng(devices=[]):  # see fl_app.adapters.lora
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, _config(model, cfg, seed))
        except Exception as error:  # PEFT raises many kinds for what it has no layer or rule for
            raise ValueError(
                f"adapter.method={cfg.method}: PEFT refuses it for this model: {error}"
            ) from error
    modules_in_float32(wrapped, head)
    _check_trained(wrapped, cfg.method)
    cast(Any, wrapped).fixed_digest = digest(_fixed(wrapped, before))
    return wrapped


def fixed(model: PeftModel) -> bytes:
    """Return the digest of all that the method added and does not train."""
    digest: Any = model.fixed_digest
    return bytes(digest)


def virtual_tokens(model: PeftModel) -> int:
    """Return how many positions the method takes before a text."""
    return int(getattr(model.active_peft_config, "num_virtual_tokens", 0) or 0)


def export(model: PeftModel, folder: Path) -> None:
    """Save in PEFT's format, for ``PeftModel.from_pretrained(base, folder)``."""
    save(model, folder, model.state_dict())


def _config(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftConfig:
    """Return PEFT's config: the arguments as given, and what follows from model and seed."""
    method, known = cfg.method, declared.fields(cfg.method)
    arguments: dict[str, Any] = dict(plain(cfg.args))
    head = classification_head(model)
    saved = arguments.get("modules_to_save") or []
    saved = [saved] if isinstance(saved, str) else saved
    check_saved(model, saved, "adapter.args.modules_to_save")
    arguments |= {name: seed % 2**31 for name in SEEDS if name in known and name not in arguments}
    if "progressbar" in known:
        arguments["progressbar"] = False
    if saved or head:
        arguments["modules_to_save"] = list(dict.fromkeys([*saved, *head]))
    if "target_modules" in known and method not in FIND_THEIR_OWN:
        arguments |= _targets(model, method, arguments)
    if method in support.ENCODER_ONLY:
        arguments.setdefault("num_transformer_submodules", 1)
    task = TaskType.SEQ_CLS if head else None
    if task is None and declared.is_prompt_learning(method):
        task = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](task_type=task, **arguments)


def _targets(model: PreTrainedModel, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return which modules are adapted: as given, else PEFT's choice for the architecture.

    Where PEFT has none, and none for the architecture that the model's extends, all linear layers
    are. What the model's class freezes and a classifier's head is left out.
    """
    chosen = given.get("target_modules")
    if chosen is None:
        chosen = _for_architecture(model, _choices(method))
    if chosen is None and method == "LN_TUNING":
        raise ValueError(
            f"PEFT does not know the normalizations of {model.config.model_type}: name them in "
            "adapter.args.target_modules"
        )
    found = {"target_modules": chosen or ALL_LINEAR}
    left_out = [*frozen(model), *classification_head(model)]
    if left_out and "exclude_modules" in declared.fields(method):
        pattern = "|".join(rf"{re.escape(name)}(\..*)?" for name in left_out)
        own = given.get("exclude_modules")
        if own:
            own = own if isinstance(own, str) else "|".join(rf"(.*\.)?{re.escape(x)}" for x in own)
            pattern = f"{pattern}|{own}"
        found["exclude_modules"] = pattern
    elif left_out:
        chosen = matching(model, found["target_modules"], left_out)
        found["target_modules"] = chosen or found["target_modules"]  # PEFT says that there are none
    if method == "IA3" and given.get("feedforward_modules") is None:
        forward = _for_architecture(model, TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING)
        # A pattern: PEFT would refuse to load a list with a name that is no target.
        names = "|".join(map(re.escape, forward or ()))
        found["feedforward_modules"] = rf"(.*\.)?({names})" if names else []
    return found


def _choices(method: str) -> dict[str, Any]:
    """Return the modules that PEFT chooses by architecture."""
    if method == "IA3":
        return dict(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
    return dict(getattr(PEFT_TYPE_TO_TUNER_MAPPING[PeftType(method)], "target_module_mapping", {}))


def _for_architecture(model: PreTrainedModel, choices: dict[str, Any]) -> Any:
    kinds = [getattr(kind, "model_type", None) for kind in type(model.config).__mro__]
    found = next((choices[kind] for kind in kinds if kind in choices), None)
    return found if found is None or isinstance(found, str) else sorted(found)


def check_kind(model: PreTrainedModel, method: str) -> None:
    """Refuse a kind of model that the method is not for; ValueError."""
    if method in support.NO_CONV1D and any(isinstance(one, Conv1D) for one in model.modules()):
        raise ValueError(
            f"adapter.method={method} is not for {model.config.model_type}: PEFT has it for "
            "nn.Linear, and the layers here are transformers' Conv1D. Choose another method, such "
            "as LORA or IA3"
        )
    if not classification_head(model):
        return
    if "modules_to_save" not in declared.fields(method):
        raise ValueError(
            f"adapter.method={method} is not for classifiers: PEFT trains no head beside it"
        )
    if method in support.CACHED:
        raise ValueError(
            f"adapter.method={method} is not for classifiers: PEFT gives keys and values to models "
            "that generate. Choose a method that changes modules"
        )
    if declared.is_prompt_learning(method) and type(model.config) not in MASKED:
        raise ValueError(
            f"adapter.method={method} is not for classifiers of {model.config.model_type}: it "
            "reads the class at a row's last token, which PEFT loses behind virtual tokens. Choose "
            "a method that changes modules, or a model like BERT"
        )


def _check_trained(model: PeftModel, method: str) -> None:
    """Refuse what could not be trained, sent or saved as it should be; ValueError."""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if not trained:
        raise ValueError(f"adapter.method={method} would train nothing: check adapter.args")
    for name, one in trained.items():
        if one.dtype != torch.float32:
            raise ValueError(
                f"adapter.method={method} would train {name} in {one.dtype}, which loses most "
                "steps: set model.dtype=float32, or leave it out"
            )
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and any(one.requires_grad for one in module.parameters()):
            raise ValueError(
                f"adapter.method={method} would train {name}, whose running statistics change with "
                "the rows and are not sent: leave it out"
            )
    if declared.is_prompt_learning(method):  # of which PEFT saves the virtual tokens it computes
        return
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    saved = {one.data_ptr() for one in state.values()}
    lost = [name for name, one in trained.items() if one.data_ptr() not in saved]
    if lost:
        raise ValueError(
            f"adapter.method={method} with these arguments would train {lost[0]}, which PEFT does "
            "not save with it"
        )


def _fixed(model: PeftModel, before: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of the model that are neither trained nor of the base.

    Some methods keep them in plain attributes.
    """
    base = {id(one) for one in before}
    for name, one in [*model.named_parameters(), *model.named_buffers()]:
        if id(one) not in base and not one.requires_grad:
            yield name, one
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            parts = value.items() if isinstance(value, dict) and name[0] != "_" else [("", value)]
            for key, one in parts:
                if isinstance(one, Tensor) and id(one) not in base:
                    yield f"{path}.{name}.{key}", one
