"""Tiny models with adapters, tasks and rows for the tests of privacy."""

from functools import lru_cache
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fl_app import models, tasks
from fl_app.adapters import ADAPTERS
from fl_app.config import compose
from fl_app.data import load
from tests import architectures, small

TEXTS = [
    {"instruction": "what is 2 and 3?", "output": "5"},
    {"instruction": "say something long, with commas", "output": "so be it, then, and so on"},
    {"instruction": "?", "output": "no"},
    {"instruction": "and 4 and 4", "output": "8 it is"},
]
SENTENCES = [
    {"premise": "it rains", "hypothesis": "it is wet outside", "label": "entailment"},
    {"premise": "he runs", "hypothesis": "he sits", "label": "contradiction"},
    {"premise": "a cat", "hypothesis": "an old cat asleep", "label": "neutral"},
]
LIMITS = "model.max_length=100 model.max_answer_length=40"
KINDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "llama": ("task=causal_lm 'task.prompt=\"{instruction} \"'", TEXTS),
    "gemma2": ("task=causal_lm 'task.prompt=\"{instruction} \"'", TEXTS),
    "opt": ("task=causal_lm 'task.prompt=\"{instruction} \"'", TEXTS),
    "t5": ("task=seq2seq", TEXTS),
    "bert": ("task=sequence_classification", SENTENCES),
}
TOKENS = {"t5": ("$A </s>", False)}


def overrides(kind: str, adapter: str = "lora_sb", more: str = "") -> str:
    """Return the overrides that ``build`` composes."""
    chosen = small.DATA if kind == "vt5" else f"{KINDS[kind][0]} {LIMITS}"
    only = "adapter.target_modules=[query,value,dense] adapter.modules_to_save=[classifier]"
    rank = "" if adapter == "full" else f"adapter.r=4 {only if kind == 'bert' else ''}"
    return f"{chosen} adapter={adapter} {rank} {more}"


def build(
    kind: str,
    adapter: str = "lora_sb",
    more: str = "",
    dropout: float = 0.0,
    rotary: dict[str, Any] | None = None,
) -> tuple[nn.Module, Any, list[Any]]:
    """Return a model in training mode whose adapter is not at its start, its task, and rows.

    Parameters
    ----------
    kind : str
        A kind of ``KINDS``, or "vt5".
    adapter : str
        Its adapter.
    more : str
        Further overrides.
    dropout : float
        Dropout of all layers; with 0 two passes can be compared.
    rotary : dict or None
        Options of a decoder's rotary positions; it then has at most 16 positions before they are
        scaled.
    """
    if dropout and adapter in ("lora", "ffa_lora"):
        more += f" adapter.dropout={dropout}"
    cfg = compose(overrides(kind, adapter, more))
    if kind == "vt5":
        base, tokenizer = models.load_vt5(cfg.model, 0)
        rows = documents()
    else:
        template, start = TOKENS.get(kind, ("<s> $A", True))
        changes = {"rope_parameters": rotary, "max_position_embeddings": 16} if rotary else {}
        base = architectures.model(kind, spread=2.0, **changes)
        tokenizer = architectures.tokenizer(template, start=start)
        rows = KINDS[kind][1]
    task = tasks.build(cfg, tokenizer, base.config)
    model = ADAPTERS[adapter].attach(base, cfg.adapter, 0)
    if adapter != "full":
        generator = torch.Generator().manual_seed(1)
        for parameter in trained(model).values():
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    drop(model, dropout)
    return model.train(), task, rows


DP = "privacy=dp_sgd privacy.epsilon=null privacy.noise_multiplier=1.0 local_epochs=1"


def configured(kind: str, adapter: str = "lora_sb", **values: Any) -> DictConfig:
    """Return the configuration of a private turn.

    ``values`` are changes of options, with ``__`` for a dot: ``privacy__noise="seeded"``.
    """
    cfg = compose(overrides(kind, adapter, DP))
    pairs = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return cast(DictConfig, OmegaConf.merge(cfg, OmegaConf.from_dotlist(pairs)))


@lru_cache
def documents() -> list[dict[str, Any]]:
    """Return documents with several questions, one with a single one, and one with none."""
    rows = load(compose(small.DATA).data, 0)["train"].to_list()[:5]
    rows[1] = asks(rows[1], 1)
    rows[2] = asks(rows[2], 0)
    return rows


def asks(row: dict[str, Any], questions: int) -> dict[str, Any]:
    """Return a document with only its first questions."""
    kept = {key: row[key][:questions] for key in ("questions", "answers")}
    return {**row, **kept}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def drop(model: nn.Module, share: float) -> None:
    """Set the probability of all kinds of dropout: of activations, attention and layers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        for name in ("dropout", "attention_dropout", "dropout_prob", "layerdrop"):
            if isinstance(getattr(module, name, None), (int, float)):
                setattr(module, name, share)
