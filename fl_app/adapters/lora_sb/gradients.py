"""LoRA-SB's initialization: the first step of full fine-tuning, in its best rank-r form.

Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557, and the code published with it. With G the
gradient of the loss for W0 over a few batches, the first step of AdamW is about::

    dW = -eta sign(G),        dW ~ B R A,        R = diag(S) the r largest singular values,

and B, A the singular vectors: training starts at W0 + B R A. In a federation the gradient is that
of one side's batches (a public set of the server, the first client), or the step is the mean of
the clients' steps, of which each sends the signs.

Between machines, and between numbers of threads, the last bits of G and of a singular vector
differ: compare `lora_sb.factors.outer` before two sides use factors that each found by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from peft import PeftModel
from torch import Tensor

from fl_app.adapters.lora_sb.factors import Factors
from fl_app.adapters.lora_sb.layers import base, layers
from fl_app.adapters.quantized import full_precision, is_quantized
from fl_app.faults import FaultError
from fl_app.tree import Tree

SVD_SEED = 42  # the official code seeds every module's SVD with it
SVD_ITERATIONS = 10


def batches(
    rows: Sequence[Any],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
    *,
    samples: int,
    batch_size: int,
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the batches of the first ``samples`` rows; the last one may be smaller."""
    budget = min(samples, len(rows))
    for first in range(0, budget, batch_size):
        yield collate([rows[i] for i in range(first, min(first + batch_size, budget))])


def gradients(
    model: PeftModel,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    seed: int,
    official_numerics: bool = False,
) -> dict[str, Tensor]:
    """Return G of every adapted module by name, [out, in], on the CPU.

    G is the sum over batches of the gradient of (mean loss of the batch / rows of the batch), as
    in the official code: a short last batch weighs more than its share. It is taken at W0, whatever
    R is, in training mode, with dropout from ``seed``. Of a base in 4 or 8 bits, whose weights have
    no gradients, it is taken on a full-precision copy. The model stays as it is.

    Parameters
    ----------
    batches : mappings of tensors
        Arguments of the model's forward, with ``input_ids`` [rows, tokens] and labels.
    official_numerics : bool
        Sum in the base's own type instead of float32.

    Raises
    ------
    ValueError
        If there are no batches, or a loss or gradient is not finite.
    """
    source = full_precision(model) if is_quantized(model) else model
    weights = {name: base(layer).weight for name, layer in layers(source).items()}
    total = {
        name: torch.zeros(weight.shape, dtype=weight.dtype if official_numerics else torch.float32)
        for name, weight in weights.items()
    }
    device = next(iter(weights.values())).device
    count = 0
    with differentiable(source, [*weights.values()]), seeded(seed, device):
        for batch in batches:
            loss = source(**{key: value.to(device) for key, value in batch.items()}).loss
            found = torch.autograd.grad(
                loss / len(batch["input_ids"]), list(weights.values()), allow_unused=True
            )
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.to("cpu", total[name].dtype)
            count += 1
    if not count:
        raise FaultError(
            "no_rows", "the initialization of LoRA-SB wants at least one batch, there is none"
        )
    for name, gradient in total.items():
        if not torch.isfinite(gradient).all():
            raise FaultError(
                "diverged",
                f"the gradient of {name} at the start is not finite: is the base model sound, and "
                "does it fit the data?",
            )
    return total


@contextmanager
def differentiable(model: PeftModel, weights: list[Tensor]) -> Iterator[None]:
    """Let gradients flow to ``weights``, in training mode and past the adapter, for a while."""
    modes = {module: module.training for module in model.modules()}
    before = [weight.requires_grad for weight in weights]
    model.train()
    try:
        with model.disable_adapter():
            for weight in weights:
                weight.requires_grad_(True)
            yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
        for module, training in modes.items():
            module.training = training


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def first_adamw_step(gradient: Tensor, eta: float) -> Tensor:
    """Return -eta sign(G), [out, in], in G's type: AdamW's first step, but for its epsilon."""
    return -eta * torch.sign(gradient)


def decompose(step: Tensor, r: int, *, official_numerics: bool = False) -> Factors:
    """Return B (out x r), R0 = diag(S) and A (r x in) of the best rank-r form of ``step``.

    Of dW^T = U diag(S) V^T (``torch.svd_lowrank``, seeded, global generator untouched): B = V,
    A = U^T; S is not divided by its largest value. B and A are orthonormal to 1e-6.

    Parameters
    ----------
    step : tensor [out, in]
        dW, float32 or the base's type.
    official_numerics : bool
        Round U, S, V to bfloat16 (orthonormal to 8e-4 then) and keep them in the type of ``step``,
        and draw and discard a normal matrix before the SVD, as the official code does: the same
        bits on the same kind of machine. Otherwise everything is float32.

    Raises
    ------
    ValueError
        If r exceeds the smaller side of ``step``.
    """
    if r > min(step.shape):
        raise ValueError(f"adapter.r={r} exceeds the smaller side of a {tuple(step.shape)} module")
    x = step.T.to(torch.float32)
    with seeded(SVD_SEED, x.device):
        if official_numerics:
            torch.randn(x.shape[1], r)
        u, s, v = torch.svd_lowrank(x, q=r, niter=SVD_ITERATIONS)
    if official_numerics:
        u, s, v = (part.to(torch.bfloat16).to(step.dtype) for part in (u, s, v))
    else:
        u, v = _orthonormal(u), _orthonormal(v)
    return Factors(v.contiguous(), torch.diag(s), u.T.contiguous())


def _orthonormal(columns: Tensor) -> Tensor:
    """Return nearly orthonormal columns without what a float32 SVD leaves at large ranks."""
    q, triangle = torch.linalg.qr(columns)
    return q * torch.sign(torch.diagonal(triangle))


def factors(
    model: PeftModel, batches: Iterable[Mapping[str, Tensor]], cfg: DictConfig, seed: int
) -> dict[str, Factors]:
    """Return B, R0, A of every adapted module from the gradients over ``batches``.

    For ``init`` server_public and first_client, which differ in whose batches they are.

    Parameters
    ----------
    cfg : DictConfig
        The ``adapter`` group: ``r``, ``eta``, ``official_numerics``.
    seed : int
        Of dropout.

    Raises
    ------
    ValueError
        See `gradients`.
    """
    found = gradients(model, batches, seed=seed, official_numerics=cfg.official_numerics)
    return {
        name: decompose(
            first_adamw_step(gradient, cfg.eta), cfg.r, official_numerics=cfg.official_numerics
        )
        for name, gradient in found.items()
    }


def signs(gradients: Mapping[str, Tensor]) -> Tree:
    """Return sign(G) of every module as +1 and -1, [out, in]: what a client sends once.

    The codec ``sign`` takes it without loss, in one bit a value and four bytes a module. A
    gradient of exactly 0 counts as positive.
    """
    return {
        name: np.where(gradient.float().numpy() < 0, np.float32(-1), np.float32(1))
        for name, gradient in gradients.items()
    }


def mean_factors(clients: Sequence[Tree], cfg: DictConfig) -> dict[str, Factors]:
    """Return B, R0, A of the mean of the clients' first steps, from their `signs`.

    For ``init`` client_mean: dW = -eta mean_k sign(G_k).

    Raises
    ------
    ValueError
        If there are no clients, or they disagree about modules.
    """
    if not clients:
        raise ValueError("the mean of the clients' signs wants at least one client")
    if any(list(tree) != list(clients[0]) for tree in clients):
        raise ValueError("the clients' signs are not those of the same modules")
    return {
        name: decompose(
            -cfg.eta * torch.from_numpy(np.mean([tree[name] for tree in clients], axis=0)),
            cfg.r,
            official_numerics=cfg.official_numerics,
        )
        for name in clients[0]
    }
