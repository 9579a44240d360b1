"""Shampoo as a local optimizer, in blocks and with a grafted step length.

It is implemented here because no package offers what a turn of few steps on LoRA's factors needs.
In pytorch_optimizer 4.1.0, Shampoo has neither blocks nor grafting, its epsilon depends on the
gradients' scale, and it makes no update before the first root. ScalableShampoo has no sum of
statistics, its first step is not U V^T, it cannot take AdamW's step length, it lets NaN into the
weights, and its state consists of pickled objects. Meta's distributed_shampoo is on no package
index and needs Python 3.12.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fl_app.training.optimizers import GRAFTS

ADAM_EPS = 1e-8


class Shampoo(torch.optim.Optimizer):
    """Shampoo: Gupta et al. 2018, https://arxiv.org/abs/1802.09568, Algorithms 1 and 2.

    For a matrix G_t, with momentum M_t (the bias-corrected mean of the gradients)::

        L_t = decay L_t-1 + G_t G_t^T,   R_t = decay R_t-1 + G_t^T G_t
        W_t+1 = W_t - lr L_t^(-1/4) M_t R_t^(-1/4)

    A tensor of order k has k statistics, each taken to the power -1/(2k). From Anil et al. 2020,
    https://arxiv.org/abs/2002.09018: axes are split into blocks, each treated as a tensor of its
    own; roots are recomputed every ``root_interval`` steps; and grafting gives every block's step
    the length of AdamW's or SGD's step. For vectors only the diagonal is kept.

    The paper starts the statistics at eps I. Here eps times the mean of the diagonal is added to
    the diagonal before a root is taken, so that a step does not depend on the gradients' scale.

    Parameters
    ----------
    params : iterable of Parameter
        What is trained.
    lr : float
        Learning rate.
    betas : (float, float)
        Decay of the momentum (0: none), and of the squared gradients of AdamW's step.
    eps : float
        Relative to the mean of a statistic's diagonal; at least the resolution of float32 is used.
    decay : float
        Decay of the statistics; 1 is the paper's sum.
    exponent : float or None
        The power of every statistic; None: -1/(2k).
    root_interval : int
        Steps between recomputed roots.
    block_size : int
        Largest size of a block along an axis.
    graft : str
        The length of a step: "adamw", "sgd", or "none" for Shampoo's own.
    weight_decay : float
        Decoupled weight decay, as in AdamW.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        decay: float,
        exponent: float | None,
        root_interval: int,
        block_size: int,
        graft: str,
        weight_decay: float,
    ) -> None:
        if graft not in GRAFTS:
            raise ValueError(f"graft={graft} should be one of {GRAFTS}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "decay": decay,
                "exponent": exponent,
                "root_interval": root_interval,
                "block_size": block_size,
                "graft": graft,
                "weight_decay": weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step.

        Raises
        ------
        FloatingPointError
            If a gradient, or its square, is not finite; weights and state are unchanged then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
        _check_finite([p.grad for p, _ in work])
        for parameter, group in work:
            self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Any, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            if group["graft"] == "adamw":
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            pieces = blocks(parameter, group["block_size"])
            state["statistics"] = [[_zeros(b, axis) for axis in range(b.ndim)] for b in pieces]
            state["roots"] = [[] for _ in pieces]  # empty: no preconditioning
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        momentum = state["exp_avg"] / (1 - beta1 ** state["step"])
        base = momentum
        if group["graft"] == "adamw":
            state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
            variance = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
            base = momentum / (variance.sqrt() + ADAM_EPS)
        update = torch.empty_like(parameter)
        cut = (blocks(t, group["block_size"]) for t in (gradient, momentum, base, update))
        for i, (g, m, b, u) in enumerate(zip(*cut, strict=True)):
            statistics = state["statistics"][i]
            for axis, statistic in enumerate(statistics):
                statistic.mul_(group["decay"]).add_(_outer(g, axis))
            if (
                g.ndim == 1  # the root of a diagonal costs nothing
                or not state["roots"][i]
                or (state["step"] - 1) % group["root_interval"] == 0
            ):
                state["roots"][i] = _roots(statistics, group)
            u.copy_(_grafted(m, b, state["roots"][i], group["graft"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(update, alpha=group["lr"])


def _grafted(momentum: Tensor, base: Tensor, roots: list[Tensor], graft: str) -> Tensor:
    """Return Shampoo's direction with the length of ``base``; ``base`` if there are no roots."""
    if not roots:
        return base
    direction = momentum
    for axis, root in enumerate(roots):
        direction = precondition(direction, root, axis)
    if graft == "none":
        return direction
    length = torch.linalg.vector_norm(direction)
    return direction * (torch.linalg.vector_norm(base) / length.clamp_min(_tiny(length)))


def _roots(statistics: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Return the power of each axis's statistic; an empty list if all gradients were zero."""
    diagonal = statistics[0] if statistics[0].ndim == 1 else statistics[0].diagonal()
    trace = diagonal.sum()  # of the squared gradients, the same for every axis
    if trace <= _tiny(trace):
        return []
    exponent = -0.5 / len(statistics) if group["exponent"] is None else group["exponent"]
    return [power(statistic, exponent, group["eps"]) for statistic in statistics]


def power(statistic: Tensor, exponent: float, eps: float) -> Tensor:
    """Return (S + eps mean(diag S) I)^exponent.

    Eigenvalues that rounding has made negative count as zero, and eps is at least the resolution
    of the type, so that a singular S has a finite power.

    Parameters
    ----------
    statistic : Tensor
        S, [n, n]; or its diagonal, [n].
    """
    eps = max(eps, torch.finfo(statistic.dtype).eps)
    diagonal = statistic if statistic.ndim == 1 else statistic.diagonal()
    mean = diagonal.mean()
    if statistic.ndim == 1:
        return (statistic / mean + eps) ** exponent * mean**exponent
    values, vectors = torch.linalg.eigh(statistic / mean)
    values = (values.clamp_min(0.0) + eps) ** exponent * mean**exponent
    return (vectors * values) @ vectors.T


def precondition(tensor: Tensor, root: Tensor, axis: int) -> Tensor:
    """Multiply ``tensor`` along ``axis`` by a root, a matrix or a diagonal."""
    if root.ndim == 1:
        return tensor * root
    return torch.tensordot(tensor, root, dims=([axis], [0])).movedim(-1, axis)


def blocks(tensor: Tensor, size: int) -> list[Tensor]:
    """Return views of a tensor's blocks, row by row, each at most ``size`` long on every axis."""
    views = [tensor.view(1) if tensor.ndim == 0 else tensor]
    for axis in range(views[0].ndim):
        views = [part for view in views for part in view.split(size, dim=axis)]
    return views


def _zeros(block: Tensor, axis: int) -> Tensor:
    n = block.shape[axis]
    return block.new_zeros(n if block.ndim == 1 else (n, n))


def _outer(gradient: Tensor, axis: int) -> Tensor:
    """Return the gradient's second moment along an axis: G G^T for the rows of a matrix."""
    if gradient.ndim == 1:
        return gradient.square()
    rows = gradient.movedim(axis, 0).flatten(1)
    return rows @ rows.T


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _check_finite(gradients: list[Any]) -> None:
    squares = [torch.linalg.vector_norm(g).square() for g in gradients]
    if squares and not torch.isfinite(torch.stack(squares)).all():
        bad = sum(not bool(torch.isfinite(s)) for s in squares)
        raise FloatingPointError(
            f"{bad} of {len(squares)} gradients are not finite, or their squares are not: "
            "lower optimizer.lr or raise optimizer.warmup"
        )
