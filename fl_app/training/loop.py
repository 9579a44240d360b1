"""Local training: one client's turn, from a model to a trained model."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor, nn

from fl_app.augment import Augment
from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.tasks import at_labels
from fl_app.tasks.base import Cuts, Task
from fl_app.training import optimizers
from fl_app.training.used import check_used

Row = dict[str, Any]
GradientHook = Callable[[nn.Module], None]
"""Called with the model after the backward pass and before clipping; changes gradients in place."""
LossHook = Callable[[nn.Module, Tensor], Tensor]
"""Called with the model and the loss of a batch; returns the loss to minimize."""
StartHook = Callable[[nn.Module, int], None]
"""Called with the model and the number of steps of the turn, before the first of them."""
EpochHook = Callable[[nn.Module], None]
"""Called with the model before each pass over the rows; may read or change parameters in place."""
StepHook = Callable[[nn.Module, float], None]
"""Called with the model and the learning rate of the step, after a step of the optimizer; may read
or change parameters in place."""
Solver = Callable[[nn.Module, Callable[[], float]], float | None]
"""Called with the model, without dropout, and a function that computes the loss of the step's
batches by forward passes alone; does the step in place of the backward pass and the optimizer, and
returns the loss, None for a step without one."""


StepWatch = Callable[[int, int, float | None], object]
"""Called after a step with its number from 1, the number of steps, and its loss or None."""


@dataclass(frozen=True)
class Hooks:
    """A method's additions to the local loop; the hooks of a list are called in its order.

    With a ``solver`` those on gradients and losses are not called: it has none to change.
    """

    starts: Sequence[StartHook] = ()
    gradients: Sequence[GradientHook] = ()
    losses: Sequence[LossHook] = ()
    epochs: Sequence[EpochHook] = ()
    steps: Sequence[StepHook] = ()
    solver: Solver | None = None


NO_HOOKS = Hooks()


class DivergedError(RuntimeError):
    """Training produced a loss that is not finite."""


@dataclass(frozen=True)
class Turn:
    """The result of a client's turn.

    Attributes
    ----------
    examples : int
        Examples seen per epoch.
    loss : float
        Mean loss of the last epoch.
    seconds : float
        Duration.
    """

    examples: int
    loss: float
    seconds: float


def train(
    model: nn.Module,
    rows: Sequence[Row] | Dataset,
    task: Task,
    cfg: DictConfig,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    gradient_accumulation: int = 1,
    hooks: Hooks = NO_HOOKS,
    augment: Augment | None = None,
    watch: StepWatch | None = None,
) -> Turn:
    """Train ``model`` in place on ``rows`` for ``epochs`` passes in a seeded random order.

    Parameters
    ----------
    model : Module
        The model; its parameters that require gradients are trained.
    rows : sequence of dict, or Dataset
        See ``fl_app.data``.
    task : Task
        Turns rows into batches.
    cfg : DictConfig
        The ``optimizer`` group: optimizer, schedule over this turn, ``max_grad_norm``.
    epochs : int
        Passes over the rows.
    batch_size : int
        Rows in a batch; of documents, each with all its questions.
    seed : int
        Seed of batch order, dropout and augmentation.
    gradient_accumulation : int
        Batches in a step. Their losses are weighted by their numbers of labels (tokens, or rows of
        a classifier), as in transformers' Trainer, so that a step equals that of one large batch.
    hooks : Hooks
        A method's additions to a step.
    augment : callable, optional
        Changes each row before a batch is made of it, see ``fl_app.augment``.
    watch : callable, optional
        Is told of every step, to show it.

    Raises
    ------
    FaultError
        If there are no rows.
    DivergedError
        If a loss is NaN or infinite.
    FaultError
        If the loss of the first step does not depend on something that is trained.
    """
    if not rows:
        raise FaultError(
            "no_rows", "this client holds no documents: check data and federation.clients"
        )
    began = time.perf_counter()
    if isinstance(task, Cuts):
        rows = task.cut(rows)
    trained = [p for p in model.parameters() if p.requires_grad]
    step_size = batch_size * gradient_accumulation
    steps_per_epoch = math.ceil(len(rows) / step_size)
    steps = epochs * steps_per_epoch
    optimizer, schedule = optimizers.build(trained, cfg, steps)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    draws = np.random.default_rng(seed)
    model.train(hooks.solver is None)
    for start_hook in hooks.starts:
        start_hook(model, steps)
    losses: list[float] = []
    done = 0
    for _ in range(epochs):
        losses.clear()
        for epoch_hook in hooks.epochs:
            epoch_hook(model)
        for indices in torch.randperm(len(rows), generator=order).split(step_size):
            batches = [
                task.training([_seen(rows[i], augment, draws) for i in some.tolist()])
                for some in indices.split(batch_size)
            ]
            step_loss: float | None
            rate = float(schedule.get_last_lr()[0])
            if hooks.solver is not None:
                step_loss = hooks.solver(model, partial(_forward_loss, model, batches))
            else:
                step_loss = _accumulate_gradients(model, batches, hooks, cfg)
                if done == 0:
                    check_used(model)
                for hook in hooks.gradients:
                    hook(model)
                nn.utils.clip_grad_norm_(trained, cfg.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
            for step_hook in hooks.steps:
                step_hook(model, rate)
            if step_loss is not None:
                losses.append(step_loss)
            done += 1
            if watch is not None:
                watch(done, steps, step_loss)
    model.eval()
    if not losses:
        raise DivergedError("no step of the last epoch had a loss that is a number: lower the rate")
    return Turn(
        examples=task.examples(rows),
        loss=sum(losses) / len(losses),
        seconds=time.perf_counter() - began,
    )


def _seen(row: Row, augment: Augment | None, draws: np.random.Generator) -> Row:
    return row if augment is None else augment(row, draws)


def _taught(labels: Tensor) -> int:
    """Return how many labels a loss is the mean of; of numbers and sets of labels, the rows."""
    is_number = labels.is_floating_point()
    return len(labels) if is_number else int((labels != IGNORED).sum())


def _accumulate_gradients(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], hooks: Hooks, cfg: DictConfig
) -> float:
    """Add the gradients of one step's batches, each weighted by its labels; return the loss."""
    step_loss = 0.0
    for batch, share in weighted(model, batches):
        loss = at_labels.loss(model, batch)
        for hook in hooks.losses:
            loss = hook(model, loss)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss.item()}: lower optimizer.lr={cfg.lr} or raise "
                f"optimizer.warmup={cfg.warmup}"
            )
        loss = loss * share
        loss.backward()
        step_loss += loss.item()
    return step_loss


def _forward_loss(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Return the loss of one step's batches, each weighted by its labels, without a graph."""
    with torch.inference_mode():
        return sum(at_labels.loss(model, b).item() * share for b, share in weighted(model, batches))


def weighted(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]]
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Yield the batches, on the model's device, with their shares of the labels."""
    device = next(p.device for p in model.parameters() if p.requires_grad)
    labels = [_taught(batch["labels"]) for batch in batches]
    for batch, count in zip(batches, labels, strict=True):
        yield {k: v.to(device) for k, v in batch.items()}, count / sum(labels)
