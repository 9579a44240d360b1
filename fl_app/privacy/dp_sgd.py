"""A client's turn with DP-SGD: gradients clipped per row, and noise, in every step.

Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1. Any optimizer works on the noised
mean (as that of DP-Adam).
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import nn

from fl_app.faults import FaultError
from fl_app.privacy.budget import Mechanism, mechanism
from fl_app.privacy.clipped_sum import ClippedSum, Row
from fl_app.privacy.gaussian import normal
from fl_app.privacy.keystream import KeyStream, derived, secret_key, seeded_key
from fl_app.tasks.base import Task
from fl_app.training import optimizers
from fl_app.training.loop import NO_HOOKS, Hooks, StepWatch

logger = logging.getLogger("thinwire")


@dataclass(frozen=True)
class PrivateTurn:
    """What a private turn did: examples held, seconds. Its loss would tell of the rows."""

    examples: int
    seconds: float


def train(
    model: nn.Module,
    rows: Sequence[Row] | Dataset,
    task: Task,
    cfg: DictConfig,
    *,
    seed: int,
    hooks: Hooks = NO_HOOKS,
    watch: StepWatch | None = None,
) -> PrivateTurn:
    """Train ``model`` in place for a turn, by ``budget.mechanism`` of ``cfg`` and the rows.

    Every step takes each row with probability ``sample_rate``, clips the rows' gradients to
    ``max_grad_norm`` and takes their noised sum over ``expected_rows`` for the gradient, also where
    the sample is empty.

    Parameters
    ----------
    cfg : DictConfig
        The whole configuration; ``optimizer.max_grad_norm`` is not used, and one row is in memory
        at a time. All that is random comes from one key: with ``privacy.noise=secret`` from the
        operating system; with ``seeded`` from ``seed``, which the server and every client know,
        who could take the noise off again: to repeat a simulation.
    hooks : Hooks
        Those on gradients come after the noise: what they add may depend on the model and its
        start, not on rows. None on losses, and no solver: those are of rows.
    watch : callable, optional
        Is told of every step, to show it, and of no loss.

    Raises
    ------
    ValueError
        If there are no rows, if ``privacy`` asks for what cannot be (see ``budget``), or for hooks
        on losses, or a solver.
    FaultError
        If the model mixes rows (see ``clipped_sum``).
    """
    if not rows:
        raise FaultError(
            "no_rows", "this client holds no documents: check data and federation.clients"
        )
    if hooks.losses:
        raise ValueError("privacy=dp_sgd clips gradients of rows: no method may change losses")
    if hooks.solver is not None:
        raise ValueError("privacy=dp_sgd clips gradients of rows: a method without them has none")
    began = time.perf_counter()
    asked = mechanism(cfg, len(rows))
    key = secret_key() if cfg.privacy.noise == "secret" else seeded_key(seed)
    for_samples, for_noise = (KeyStream(derived(key, name)) for name in ("samples", "noise"))
    model.train()
    with torch.random.fork_rng():  # rows seed it, and what comes later must not know of them
        clipped = ClippedSum(model, task, asked.max_grad_norm, derived(key, "dropout"))
        trained = clipped.trained.values()
        optimizer, schedule = optimizers.build(list(trained), cfg.optimizer, asked.steps)
        clipped.check(rows[i] for i in range(len(rows)))
        for start_hook in hooks.starts:
            start_hook(model, asked.steps)
        epoch = math.ceil(1 / asked.sample_rate)  # steps in which a row is expected once
        for step, sample in enumerate(poisson(len(rows), asked, for_samples)):
            for epoch_hook in hooks.epochs if step % epoch == 0 else ():
                epoch_hook(model)
            clipped.clear()
            for i in sample:
                clipped.add(rows[i], step)
            for parameter, values in zip(trained, clipped.sums.values(), strict=True):
                noise = torch.from_numpy(normal(for_noise, values.numel())).view(values.shape)
                values += (asked.noise_multiplier * asked.max_grad_norm) * noise.to(values.device)
                parameter.grad = (values / asked.expected_rows).to(parameter.dtype)
            for hook in hooks.gradients:
                hook(model)
            rate = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            for step_hook in hooks.steps:
                step_hook(model, rate)
            if watch is not None:
                watch(step + 1, asked.steps, None)
    model.eval()
    if clipped.not_finite:  # for who runs the node: elsewhere it would tell of the rows
        logger.warning(
            "%d gradients of single rows were not finite, and left out: lower optimizer.lr",
            clipped.not_finite,
        )
    return PrivateTurn(task.examples(rows), time.perf_counter() - began)


def poisson(rows: int, asked: Mechanism, stream: KeyStream) -> Iterator[list[int]]:
    """Draw the samples of a turn: each row is in each with probability ``sample_rate``."""
    for _ in range(asked.steps):
        yield (stream.uniform(rows) < asked.sample_rate).nonzero()[0].tolist()
