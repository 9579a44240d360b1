"""LiGO (Wang et al. 2023) as an adapter: what is trained and sent grows a smaller model.

The base is the smaller model, which every machine has; ``adapter.config`` says how the larger one
differs from it. In a federation the clients' mean of w and E is that of FedAvg, and the trained
model is the larger one, with weights of its own: a base for other adapters. That use in a
federation is our construction; the paper trains the operator in one place.
"""

import copy
from pathlib import Path

import torch
from omegaconf import DictConfig
from transformers import PreTrainedModel

from fl_app.adapters.full import frozen, get, set
from fl_app.adapters.ligo.operator import GrowthOperator, graft, materialized, plan
from fl_app.adapters.precision import whole_in_float32
from fl_app.config import plain
from fl_app.models.auto import DECIDED_ELSEWHERE
from fl_app.models.sources import check_known

__all__ = ["attach", "export", "get", "set"]


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PreTrainedModel:
    """Return the larger model, whose weights the operator computes from ``model``.

    Raises
    ------
    ValueError
        If a key of ``cfg.config`` is unknown, the architecture is, or the larger model is smaller.
    """
    whole_in_float32(model)
    kept = tuple(frozen(model))
    with torch.random.fork_rng(devices=[]):
        large = built(model, cfg)
    for name in kept:
        large.get_submodule(name).load_state_dict(model.get_submodule(name).state_dict())
    if model.can_generate():
        large.generation_config = model.generation_config
    large.requires_grad_(False)
    model.requires_grad_(False)
    operator = GrowthOperator(
        model, large, kept, depth=cfg.depth, noise=cfg.noise, width=cfg.width, seed=seed
    )
    graft(large, operator)
    return large.eval()


def check_sizes(model: PreTrainedModel, cfg: DictConfig) -> None:
    """Check that the larger model of a model, which may lack weights, can be grown from it.

    Raises
    ------
    ValueError
        As `attach` does.
    """
    with torch.device("meta"):
        large = built(model, cfg)
    plan(model, large, tuple(frozen(model)))


def built(model: PreTrainedModel, cfg: DictConfig) -> PreTrainedModel:
    """Return a model of the larger config, with drawn weights.

    Raises
    ------
    ValueError
        If the config has no such key, or transformers builds no model of such a value.
    """
    overrides = plain(cfg.config)
    check_known(overrides, {*model.config.to_dict()} - DECIDED_ELSEWHERE, "adapter.config")
    config = copy.deepcopy(model.config)
    try:
        for key, value in overrides.items():
            setattr(config, key, value)
        config.validate()
        return type(model)(config)
    except Exception as error:  # of whatever kind: it is about the sizes
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"adapter.config={overrides} makes no model: {why}") from error


def export(model: PreTrainedModel, folder: Path) -> None:
    """Save the grown model, with weights of its own, for ``from_pretrained``."""
    materialized(model).save_pretrained(folder)
