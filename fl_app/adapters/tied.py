"""Tied: codes on the token embedding, LoRA of few shared numbers, and scales of norms.

Three parts, each by choice, a few thousand numbers together:

- ``codes`` C, [tokens, k]. A token's vector is ``E + c C V``: V, [k, d], are the first k principal
  directions of the rows of the embedding E, c is ``code_scale``. C starts at 0. A client's new
  words are in C, where all that share its rows share what they learnt.
- ``shared`` t, [n]. LoRA (Hu et al. 2021, eq. 3) of every linear layer, ``W0 + alpha/r B A``, with
  ``z = z0 + S t`` for all D entries z of all A and B in a row. z0 is LoRA's start, A as drawn and
  B = 0. S, [D, n], is a signed hash: one entry of +1 or -1 in each row, ceil(D/n) or floor(D/n) in
  each column. t starts at 0.
- ``norms`` v: the weight of every normalization is ``w (1 + g v)``, g is ``norm_scale``; v starts
  at 0. A weight of 0 stays 0 (Gemma's, to which its norms add 1, start near it).

So the start is the base model. V, z0 and S are made on every machine, from base and seed; their
digest is in the fingerprint of the run. All three are linear in what is sent: the mean of the
clients' numbers is that of their codes, factors and scales.

S is that of Uni-LoRA (Li et al. 2025, https://arxiv.org/abs/2506.00799) with signs and without
``1/sqrt(D/n)``, and added to LoRA's start. PEFT has Uni-LoRA, but starts it at random numbers, not
at the base model; its embedding layer for LoRA serves C V here, and what is saved is a plain LoRA.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Embedding, LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers import PreTrainedModel

from fl_app.adapters import lora
from fl_app.adapters.fixed import digest
from fl_app.adapters.full import frozen, get, set
from fl_app.adapters.lora_sb.layers import ADAPTER
from fl_app.adapters.precision import modules_in_float32
from fl_app.adapters.quantized import keep_trainable
from fl_app.adapters.targets import lookups, matching, norms
from fl_app.config import plain
from fl_app.models.head import classification_head

__all__ = ["attach", "export", "fixed", "get", "set"]

PREFIX = "base_model.model."  # of PEFT's wrapper, before the model's own names
WEIGHTS = "adapter_model.safetensors"
GRID = 2.0**16
"""Directions are multiples of 1 / GRID: what differs in them between processors is 1e-13."""
ROWS = 1 << 13  # rows of an embedding that are in float64 at a time


class Parts(nn.Module):
    """What is trained: those of ``codes``, ``shared`` and ``norms`` that the options ask for."""

    codes: nn.Parameter
    shared: nn.Parameter
    norms: nn.Parameter

    def add(self, name: str, *shape: int) -> nn.Parameter:
        """Add a part that starts at 0."""
        part = nn.Parameter(torch.zeros(shape))
        self.register_parameter(name, part)
        return part


class _Made(nn.Module):
    """A tensor of the model that is made of a part.

    The part is in a list: as an attribute it would be a parameter of each module that reads it.
    """

    def __init__(self, part: nn.Parameter) -> None:
        super().__init__()
        self.of = [part]

    @property
    def part(self) -> Tensor:
        return self.of[0]


class _Codes(_Made):
    """PEFT's A of an embedding, C^T."""

    def forward(self, start: Tensor) -> Tensor:
        return self.part.T


class _Hashed(_Made):
    """A factor of LoRA: its rows of ``z0 + S t``."""

    def __init__(self, part: nn.Parameter, index: Tensor, sign: Tensor) -> None:
        super().__init__(part)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("sign", sign, persistent=False)

    def forward(self, start: Tensor) -> Tensor:
        index, sign = cast(Tensor, self.index), cast(Tensor, self.sign)
        return start + (sign * self.part.index_select(0, index)).view_as(start)


class _Scaled(_Made):
    """The weight of a normalization, ``w (1 + g v)``."""

    def __init__(self, part: nn.Parameter, first: int, scale: float) -> None:
        super().__init__(part)
        self.first, self.scale = first, scale

    def forward(self, w: Tensor) -> Tensor:
        v = self.part[self.first : self.first + w.numel()]
        return (w * (1 + self.scale * v)).to(w.dtype)


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap ``model``; the parts, ``modules_to_save`` and a classifier's head train.

    Raises
    ------
    ValueError
        If ``target_modules`` match nothing, the embedding has fewer than ``codes`` directions,
        there are more shared numbers than entries, or no norms.
    """
    keep_trainable(model)
    head = classification_head(model)
    left_out = [*frozen(model), *head]
    tables = [path for path in lookups(model) if cfg.codes]
    scaled = norms(model, left_out) if cfg.norms else []
    if cfg.norms and not scaled:
        raise ValueError("adapter.norms=true: the model has no normalization with a weight")
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    directions = principal(embedding.weight, cfg.codes) if tables else None
    weights = [model.get_submodule(path) for path in scaled]
    config = _config(model, cfg, left_out, tables)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # see fl_app.adapters.lora
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # see lookups
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    modules_in_float32(wrapped, head)
    wrapped.tied = Parts()
    _freeze_factors(wrapped)
    if directions is not None:
        _add_codes(wrapped, cfg.code_scale * directions)
    if cfg.shared:
        _add_shared(wrapped, cfg.shared, seed)
    if scaled:
        part = _parts(wrapped).add(
            "norms", sum(cast(Tensor, one.weight).numel() for one in weights)
        )
        first = 0
        for one in weights:
            made = _Scaled(part, first, cfg.norm_scale)
            first += cast(Tensor, one.weight).numel()
            register_parametrization(one, "weight", made)
    kept = cast(Any, wrapped)
    kept.scaled_norms, kept.fixed_digest = scaled, digest(_fixed(wrapped))
    return wrapped


def _config(
    model: PreTrainedModel, cfg: DictConfig, left_out: list[str], tables: list[str]
) -> LoraConfig:
    """Return PEFT's LoRA of the linear layers, of rank ``codes`` and scale 1 at the ``tables``."""
    linear = matching(model, plain(cfg.target_modules), left_out) if cfg.shared else []
    if cfg.shared and not linear:
        raise ValueError(f"adapter.target_modules={plain(cfg.target_modules)} match no module")
    both = sorted({*linear} & {*lookups(model)})
    if both:
        raise ValueError(
            f"adapter.target_modules match {both[0]}, the token embedding, which is for "
            "adapter.codes"
        )
    ranks = dict.fromkeys(tables, cfg.codes)
    return lora.config(
        model, cfg, target_modules=[*linear, *tables], rank_pattern=ranks, alpha_pattern=ranks
    )


def _layers(model: PeftModel) -> dict[str, LoraLayer]:
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}


def _parts(model: PeftModel) -> Parts:
    return cast(Parts, model.tied)


def _freeze_factors(model: PeftModel) -> None:
    for layer in _layers(model).values():
        for name, factor in cast(nn.Module, layer).named_parameters():
            if "lora_" in name:
                factor.requires_grad_(False)


def _add_codes(model: PeftModel, directions: Tensor) -> None:
    """Have every lookup add C times ``directions``, [k, d]."""
    tables = [one for one in _layers(model).values() if isinstance(one, Embedding)]
    tokens = len(cast(Tensor, tables[0].get_base_layer().weight))
    part = _parts(model).add("codes", tokens, len(directions))
    for table in tables:
        cast(Tensor, table.lora_embedding_B[ADAPTER]).data.copy_(directions.T)
        cast(Tensor, table.lora_embedding_A[ADAPTER]).data.zero_()
        register_parametrization(cast(nn.Module, table.lora_embedding_A), ADAPTER, _Codes(part))


def _add_shared(model: PeftModel, numbers: int, seed: int) -> None:
    """Make A and B of every linear layer of ``numbers`` shared ones."""
    layers = [one for one in _layers(model).values() if not isinstance(one, Embedding)]
    factors = [
        cast(nn.Linear, made[ADAPTER]) for one in layers for made in (one.lora_A, one.lora_B)
    ]
    sizes = [one.weight.numel() for one in factors]
    if numbers > sum(sizes):
        raise ValueError(
            f"adapter.shared={numbers} should be at most {sum(sizes)}, the entries of LoRA of rank "
            f"adapter.r over adapter.target_modules"
        )
    index, sign = signed_hash(sum(sizes), numbers, seed)
    part = _parts(model).add("shared", numbers)
    for one, i, s in zip(factors, index.split(sizes), sign.split(sizes), strict=True):
        register_parametrization(one, "weight", _Hashed(part, i.clone(), s.clone()))


def signed_hash(entries: int, numbers: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the column and the sign of each row of S.

    Returns
    -------
    int64 [entries], float32 [entries]
        Each column has ``entries / numbers`` rows, rounded down or up.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(entries, generator=generator) % numbers
    sign = torch.randint(0, 2, (entries,), generator=generator) * 2 - 1
    return index, sign.float()


def principal(table: Tensor, k: int) -> Tensor:
    """Return the first k principal directions of the rows of a table, float32 [k, d].

    They are orthonormal to 1 / GRID, the one of most variance first, and of each the entry of the
    largest magnitude is positive. What processors compute differently disappears in rounding, but
    for entries that lie next to the middle between two multiples; the fingerprint tells.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    count, width = table.shape
    if k > min(count - 1, width):
        raise ValueError(
            f"adapter.codes={k} should be at most {min(count - 1, width)}: the token embedding has "
            f"{count} tokens of {width} values"
        )
    chunks = [part.detach().cpu() for part in table.split(ROWS)]
    mean = sum(part.double().sum(0) for part in chunks) / count
    centred = ((part.double() - mean) for part in chunks)
    spread = cast(Tensor, sum(part.T @ part for part in centred))
    found = torch.linalg.eigh(spread).eigenvectors[:, -k:].flip(1).T
    largest = found.abs().argmax(1, keepdim=True)
    found = found * found.gather(1, largest).sign()
    return ((found * GRID).round() / GRID).float()


def _fixed(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Yield V (with its scale), z0 and S."""
    for name, layer in _layers(model).items():
        if isinstance(layer, Embedding):
            yield f"{name}.V", cast(Tensor, layer.lora_embedding_B[ADAPTER])
            continue
        for which, factor in (("A", layer.lora_A[ADAPTER]), ("B", layer.lora_B[ADAPTER])):
            made = cast(Any, factor).parametrizations.weight
            yield f"{name}.{which}", made.original
            yield f"{name}.{which}.index", made[0].index
            yield f"{name}.{which}.sign", made[0].sign


def fixed(model: PeftModel) -> bytes:
    """Return the digest of V, z0 and S."""
    made: Any = model.fixed_digest
    return bytes(made)


def export(model: PeftModel, folder: Path) -> None:
    """Save a plain LoRA and the normalizations, for ``PeftModel.from_pretrained(base, folder)``."""
    state = {n: x for n, x in model.state_dict().items() if ".parametrizations." not in n}
    for name, layer in _layers(model).items():
        if isinstance(layer, Embedding):
            state[f"{name}.lora_embedding_A.{ADAPTER}"] = layer.lora_embedding_A[ADAPTER]
            continue
        for which, made in (("A", layer.lora_A), ("B", layer.lora_B)):
            state[f"{name}.lora_{which}.{ADAPTER}.weight"] = cast(nn.Linear, made[ADAPTER]).weight
    saved = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    scaled: list[str] = cast(Any, model).scaled_norms
    for path in scaled:
        module = model.get_submodule(f"{PREFIX}{path}")
        others = {n: x for n, x in module.state_dict().items() if "parametrizations" not in n}
        for name, one in {**others, "weight": cast(Tensor, module.weight)}.items():
            saved[f"{PREFIX}{path}.{name}"] = one
    tensors = {name: one.detach().to("cpu").contiguous().clone() for name, one in saved.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = cast(LoraConfig, model.peft_config[ADAPTER])
    config.save_pretrained(str(folder), auto_mapping_dict=None)
    lora.tidy(
        folder,
        inference_mode=True,
        modules_to_save=[*(config.modules_to_save or []), *scaled] or None,
    )
