"""W = Q + L1 L2 by turns: the best L1 L2 for Q, then the nearest Q for L1 L2.

LQ-LoRA (Guo et al. 2023, https://arxiv.org/abs/2311.12023), algorithm 1. From Q = 0, until the
error rises::

    L1 L2 = the rank-r part of W - Q, singular values split as square roots
    Q = quantize(W - L1 L2)
    error = ||W - Q - L1 L2||

With a Fisher matrix F of W the errors of weights that matter more count more. F is taken as its
means over rows and columns, with which a weighted SVD is a plain one::

    d1 = sqrt(mean over columns of F),  d2 = sqrt(mean over rows of F) / sqrt(mean F)
    L1 L2 = D1^-1 (rank-r part of D1 (W - Q) D2) D2^-1,    error = ||D1 (W - Q - L1 L2) D2||

so that d1_i d2_j is sqrt(F_ij) where F has rank one. The published code divides nothing by
sqrt(mean F), which moves no minimum, and returns the last, slightly worse, step: here errors of
different matrices compare, and the best step is returned.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_app.adapters.lq_lora.normal_float import Quantized, Width, quantize

OVERSAMPLING = 10  # ranks beyond r of the randomized SVD, as published
POWERS = 4  # iterations of it
LEAST = 1e-6  # of a weight's largest; where F is zero, L1 L2 would be divided by zero


@dataclass(frozen=True)
class Fisher:
    """What is kept of a Fisher matrix F [out, in]: its mean over columns [out], over rows [in]."""

    rows: Tensor
    columns: Tensor

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return d1 [out] and d2 [in]; ones where F says nothing."""
        mean = self.rows.mean()
        if not mean > 0:
            return torch.ones_like(self.rows), torch.ones_like(self.columns)
        d1, d2 = self.rows.sqrt(), self.columns.sqrt() / mean.sqrt()
        return d1.clamp(min=LEAST * float(d1.max())), d2.clamp(min=LEAST * float(d2.max()))


@dataclass(frozen=True)
class Decomposition:
    """W as Q + L1 L2.

    Attributes
    ----------
    quantized : Quantized
        Q [out, in].
    left, right : tensor
        L1 [out, r] and L2 [r, in], float32.
    errors : tuple of float
        The error after each step that lowered it; the last one is that of this result.
    """

    quantized: Quantized
    left: Tensor
    right: Tensor
    errors: tuple[float, ...]


def decompose(
    w: Tensor,
    r: int,
    width: Width,
    fisher: Fisher | None = None,
    *,
    iterations: int = 100,
    seed: int = 0,
) -> Decomposition:
    """Return W as Q + L1 L2.

    Parameters
    ----------
    w : tensor [out, in]
        W.
    r : int
        Rank of L1 L2, from 0 to the smaller side of W.
    width : Width
        How Q is stored.
    fisher : Fisher or None
        The importance of the weights; None: they are all alike.
    iterations : int
        The most steps.
    seed : int
        Of the randomized SVD.
    """
    w = w.detach().to("cpu", torch.float32)  # of GPUs too: Q has the same bits everywhere
    d1, d2 = fisher.weights() if fisher else (torch.ones(w.shape[0]), torch.ones(w.shape[1]))
    q = torch.zeros_like(w)
    best: Decomposition | None = None
    for _ in range(iterations):
        left, right = _factors(d1[:, None] * (w - q) * d2, r, seed)
        left, right = left / d1[:, None], right / d2
        product = left @ right
        quantized = quantize(w - product, width)
        q = quantized.dequantized()
        error = float((d1[:, None] * (w - q - product) * d2).norm())
        if best is not None and error >= best.errors[-1]:
            break
        errors = (*best.errors, error) if best else (error,)
        best = Decomposition(quantized, left.contiguous(), right.contiguous(), errors)
    assert best is not None
    return best


def _factors(x: Tensor, r: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) [out, r] and sqrt(S) V^T [r, in] of the r largest singular values."""
    if r == 0:
        return x.new_zeros(x.shape[0], 0), x.new_zeros(0, x.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(x, q=min(r + OVERSAMPLING, *x.shape), niter=POWERS)
    root = s[:r].sqrt()
    return u[:, :r] * root, root[:, None] * v[:, :r].T
