"""HideNseek's sign masks (Vallapuram et al. 2022, https://arxiv.org/abs/2206.04385), on a LoRA.

The factors of W0 + alpha/r (B A - B0 A0) are random numbers whose signs alone are learnt: for A0
and B0 from the seed, a mask M that prunes them once, and a score s for each entry that is kept ::

    A = M A0 sign(s),     B likewise,     sign(0) = +1.

All scores start at ``init``, so that all signs are +: B A is M B0 times M A0, which is subtracted,
and the model is exactly the base. The backward pass takes sign for the identity (straight-through),
so that the gradient of s is that of the factor times M A0. Only scores are trained, and a sign is
all that has to be sent of one.

Pruning needs no data: the saliency of an entry (SynFlow, Tanaka et al. 2020,
https://arxiv.org/abs/2006.05467) is its share of the sum of |B| |A| over a module ::

    S(A_ij) = |A_ij| sum_o |B_oi|,     S(B_oi) = |B_oi| sum_j |A_ij|,

which for A and for B add up to the same. The ``density`` d largest of all modules together stay, in
``iterations`` passes with densities d^(t/iterations); of equal ones at the edge none does.

The paper masks a network that was random from the start; the adapter, and the straight-through
details, are reconstructions. Random factors are not sent; their digest is in a run's fingerprint.
"""

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from fl_app.adapters import lora
from fl_app.adapters.full import get, set
from fl_app.adapters.lora_sb.layers import ADAPTER

__all__ = ["attach", "export", "fixed", "get", "set"]


class _Sign(torch.autograd.Function):
    """-1 below 0, else +1; backward the identity."""

    @staticmethod
    def forward(context: Any, scores: Tensor) -> Tensor:
        return torch.where(scores < 0, -1.0, 1.0).to(scores.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Signed(nn.Module):
    """A factor: random values, which of them are kept, and the scores of these.

    Parameters
    ----------
    drawn : Tensor
        The random values, whose zeros are not kept.
    init : float
        Where scores start.
    """

    weight0: Tensor  # M A0, as drawn
    kept: Tensor  # the places of its entries, row by row

    def __init__(self, drawn: Tensor, init: float) -> None:
        super().__init__()
        self.register_buffer("weight0", drawn)
        self.register_buffer("kept", drawn.flatten().nonzero().flatten())
        self.scores = nn.Parameter(torch.full(self.kept.shape, init))

    @property
    def weight(self) -> Tensor:
        """Return the factor by the signs of the scores."""
        flat = self.weight0.flatten()
        signed = flat[self.kept] * _Sign.apply(self.scores)
        return torch.zeros_like(flat).index_copy(0, self.kept, signed).view_as(self.weight0)


class SignedA(Signed):
    """A x and A0 x, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """Return both, [..., 2 r]."""
        learnt, start = (nn.functional.linear(x, w) for w in (self.weight, self.weight0))
        return torch.cat([learnt, start], dim=-1)


class SignedB(Signed):
    """B A x - B0 A0 x: at the start the same product twice, and so exactly 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the difference, [..., out]."""
        learnt, start = x.chunk(2, dim=-1)
        by_learnt = nn.functional.linear(learnt, self.weight)
        return by_learnt - nn.functional.linear(start, self.weight0)


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Put signed factors beside the linear layers of ``model``; their scores train.

    So do ``modules_to_save`` and a classifier's head, whole, as with `lora.attach`.

    Raises
    ------
    ValueError
        As `lora.attach` does, or if a module is not linear, or no entry is kept.
    """
    wrapped = lora.attach(model, cfg, seed)
    layers = _layers(wrapped)
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, layer in layers.items():
        a = cast(Tensor, layer.lora_A[ADAPTER].weight).detach()
        b = torch.empty(cast(int, layer.out_features), cfg.r).normal_(
            0, cfg.b_std, generator=generator
        )
        factors[name] = (a.clone(), b)
    masks = pruned(factors, cfg.density, cfg.iterations)
    if not any(mask.any() for pair in masks.values() for mask in pair):
        raise ValueError(
            f"adapter.density={cfg.density} keeps no entry: raise it, or lower adapter.iterations="
            f"{cfg.iterations}"
        )
    for name, layer in layers.items():
        (a, b), (keeps_a, keeps_b) = factors[name], masks[name]
        layer.lora_A[ADAPTER] = SignedA(a * keeps_a, cfg.init)
        layer.lora_B[ADAPTER] = SignedB(b * keeps_b, cfg.init)
    return wrapped


Factors = dict[str, tuple[Tensor, Tensor]]
"""A [r, in] and B [out, r] of every module, or a mask of each."""


def saliency(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return S of every entry of A and B, in float64."""
    a, b = a.double().abs(), b.double().abs()
    return a * b.sum(0)[:, None], b * a.sum(1)


def pruned(factors: Factors, density: float, iterations: int) -> Factors:
    """Return the masks that keep the most salient entries of all modules together."""
    masks = {n: (torch.ones_like(a), torch.ones_like(b)) for n, (a, b) in factors.items()}
    count = sum(x.numel() for pair in factors.values() for x in pair)
    for step in range(1, iterations + 1):
        left = {n: saliency(a * masks[n][0], b * masks[n][1]) for n, (a, b) in factors.items()}
        order = torch.cat([x.flatten() for pair in left.values() for x in pair]).sort().values
        drop = count - int(density ** (step / iterations) * count)
        if drop:
            edge = order[drop - 1]
            masks = {n: ((a > edge).float(), (b > edge).float()) for n, (a, b) in left.items()}
    return masks


def fixed(model: nn.Module) -> bytes:
    """Return the SHA-256 of what is drawn and never trained: the kept random values."""
    sha = hashlib.sha256()
    for layer in _layers(model).values():
        for factor in _signed(layer):
            sha.update(factor.weight0.cpu().numpy().astype("<f4").tobytes())
    return sha.digest()


def export(model: PeftModel, folder: Path) -> None:
    """Save as a plain LoRA of rank 2 r for any PEFT to load: [B, -B0] [A; A0]."""
    state = model.state_dict()
    layers = _layers(model)
    for name, layer in layers.items():
        a, b = _signed(layer)
        for factor in ("A", "B"):
            for held in ("scores", "weight0", "kept"):
                del state[f"{name}.lora_{factor}.{ADAPTER}.{held}"]
        with torch.no_grad():
            state[f"{name}.lora_A.{ADAPTER}.weight"] = torch.cat([a.weight, a.weight0])
            state[f"{name}.lora_B.{ADAPTER}.weight"] = torch.cat([b.weight, -b.weight0], dim=1)
    r, alpha = (getattr(model.peft_config[ADAPTER], key) for key in ("r", "lora_alpha"))
    lora.save(model, folder, state, r=2 * r, lora_alpha=2 * alpha)


def _signed(layer: Linear) -> tuple[Signed, Signed]:
    return cast(Signed, layer.lora_A[ADAPTER]), cast(Signed, layer.lora_B[ADAPTER])


def _layers(model: nn.Module) -> dict[str, Linear]:
    found = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    if others := [n for n, m in found.items() if not isinstance(m, Linear)]:
        raise ValueError(
            f"adapter=sign_mask is for linear layers: leave {others[0]} out of "
            "adapter.target_modules"
        )
    return cast(dict[str, Linear], found)
