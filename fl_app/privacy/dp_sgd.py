"""A client's turn with DP-SGD: gradients clipped per row, and noise, in every step.

Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1. Opacus clips, adds up, draws the
noise and accounts; any optimizer works on the noised mean (as that of DP-Adam).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from omegaconf import DictConfig
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn

from fl_app import optimizers
from fl_app.faults import FaultError
from fl_app.privacy.budget import Mechanism, mechanism
from fl_app.privacy.per_row import PerRowGradients, Row
from fl_app.tasks import Task
from fl_app.training import DivergedError, GradientHook


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
    hooks: Sequence[GradientHook] = (),
) -> PrivateTurn:
    """Train ``model`` in place for a turn, by ``budget.mechanism`` of ``cfg`` and the rows.

    Every step takes each row with probability ``sample_rate``, clips the rows' gradients to
    ``max_grad_norm`` and takes their noised sum over ``expected_rows`` for the gradient, also where
    the sample is empty.

    Parameters
    ----------
    cfg : DictConfig
        The whole configuration; ``optimizer.max_grad_norm`` is not used, and ``batch_size`` rows
        are in memory at once: a larger sample goes through in parts.
        ``privacy.noise=seeded`` draws samples and noise from ``seed``, so that a simulation can be
        repeated. A seed of the run is known to the server and to every client, who could take the
        noise off again: where clients are apart, ``secret`` draws both from the operating system's
        randomness, and forms the noise as Opacus' secure mode does (Holohan & Braghin 2021,
        https://arxiv.org/abs/2107.10138).
    seed : int
        Of this turn: dropout, samples and noise.
    hooks : gradient hooks
        After the noise: what they add may depend on the model and its start, not on rows.

    Raises
    ------
    ValueError
        If there are no rows, if ``privacy`` asks for what cannot be (see ``budget``), or if
        gradients per row cannot be had of this model (see ``per_row``).
    DivergedError
        If a loss is NaN or infinite.
    """
    if not rows:
        raise FaultError(
            "no_rows", "this client holds no documents: check data and federation.clients"
        )
    began = time.perf_counter()
    trained = [p for p in model.parameters() if p.requires_grad]
    asked = mechanism(cfg, len(rows))
    secret = cfg.privacy.noise == "secret"
    for_samples, for_noise = _generators(None if secret else seed, trained[0].device)
    optimizer, schedule = optimizers.build(trained, cfg.optimizer, asked.steps)
    private = DPOptimizer(
        optimizer,
        noise_multiplier=asked.noise_multiplier,
        max_grad_norm=asked.max_grad_norm,
        expected_batch_size=asked.expected_rows,
        generator=for_noise,
        secure_mode=secret,
    )
    model.train()
    per_row = PerRowGradients(model, task)
    try:
        with torch.random.fork_rng():
            per_row.check(rows[i] for i in range(len(rows)))
        torch.manual_seed(seed)
        for sample in poisson(len(rows), asked, for_samples):
            parts = list(batched(sample, cfg.batch_size)) or [()]
            for number, part in enumerate(parts, start=1):
                loss = per_row.backward([rows[i] for i in part])
                if not np.isfinite(loss):
                    raise DivergedError(
                        f"a loss is not finite: lower optimizer.lr={cfg.optimizer.lr} or raise "
                        f"optimizer.warmup={cfg.optimizer.warmup}"
                    )
                private.signal_skip_step(number < len(parts))
                if not private.pre_step():  # clips and adds up; after the last part, noise
                    private.zero_grad(set_to_none=True)
            for hook in hooks:
                hook(model)
            optimizer.step()
            schedule.step()
            private.zero_grad(set_to_none=True)
    finally:
        per_row.remove()
        for parameter in trained:
            del parameter.summed_grad  # type: ignore[attr-defined]
    model.eval()
    return PrivateTurn(task.examples(rows), time.perf_counter() - began)


def poisson(rows: int, asked: Mechanism, generator: torch.Generator) -> Iterator[list[int]]:
    """Draw the samples of a turn: each row is in each with probability ``sample_rate``."""
    sampler = UniformWithReplacementSampler(
        num_samples=rows,
        sample_rate=asked.sample_rate,
        generator=generator,
        steps=asked.steps,
    )
    return iter(sampler)


def _generators(seed: int | None, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """Return the generators of samples and of noise; None: from the operating system."""
    # Children, so that neither repeats the numbers of another generator of this seed (dropout).
    of_samples, of_noise = np.random.SeedSequence(seed).spawn(2)
    return (
        torch.Generator().manual_seed(int(of_samples.generate_state(1, np.uint64)[0])),
        torch.Generator(device).manual_seed(int(of_noise.generate_state(1, np.uint64)[0])),
    )


def batched(sample: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut ``sample`` into parts of at most ``size``."""
    for start in range(0, len(sample), size):
        yield sample[start : start + size]
