"""``python -m benchmarks.ligo``: steps and CPU seconds to a loss, from scratch, stacked, and grown.

The larger model of ``experiment=ligo`` is trained on a stream like that of the embedded decoder,
which is the smaller one: from weights drawn by transformers; from the smaller one's layers stacked
and widened as LiGO starts, without its noise and without training the operator (``thinwire grow
--steps 0 adapter.noise=0``); and from LiGO after 100 steps of its operator, which count. The loss
is that of held-out stories and expressions: each start reaches the loss that training from scratch
ends with after so many of its steps. A start has a schedule of its own steps, which are fewer for
what was grown. CPU seconds are of all of it: building the model, the operator's steps, and looking
at the loss.

Each curve is kept in ``docs/results/growing/ligo.json`` (see ``benchmarks.kept``) as soon as it is
there: lists ``steps``, ``cpu_s`` and ``loss``, as long as each other, and ``small_loss``, that of
the smaller model. When all are there, the command prints the table.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from benchmarks import kept, markdown, runs
from fl_app import models
from fl_app.adapters.ligo import adapter
from fl_app.adapters.ligo.operator import materialized
from fl_app.config import compose, plain
from fl_app.pretraining.llama import LEARNING_RATE, stream, train
from fl_app.tasks import build
from fl_app.tasks.base import Task

WORDS = "experiment=ligo"
OPERATOR = 100  # steps of the operator's training, of the paper
OPERATOR_RATE = 5e-3
EVERY = 10  # steps between two looks at the held-out loss
HELD_OUT = 10**6  # seed of their stream, which trains nothing
SEEDS = (2, 3, 4)  # 1 is that of the stream that the smaller model was trained on
SCRATCH, STACKED, LIGO = STARTS = ("scratch", "stacked", "ligo")
FILE = runs.RESULTS / "growing" / "ligo.json"  # in a folder of its own: it is no run's result
HEAD = (
    "seed", "start", "first loss", "last loss", "steps to scratch's last", "share of its steps",
    "CPU s", "share of its CPU s",
)  # fmt: skip


def main() -> None:
    """Train what has no curve yet, and print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--steps", type=int, default=600, help="of training from scratch (600)")
    given.add_argument(
        "--grown-steps", type=int, default=160,
        help=f"of training what was grown (160), the operator's {OPERATOR} among them",
    )  # fmt: skip
    given.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help=f"{SEEDS} by default")
    given.add_argument("--json", type=Path, default=FILE, help="the file of the curves")
    asked = given.parse_args()
    if asked.grown_steps <= OPERATOR:
        given.error(f"--grown-steps {asked.grown_steps} should be above {OPERATOR}")
    torch.set_num_threads(1)
    steps = {SCRATCH: asked.steps, STACKED: asked.grown_steps, LIGO: asked.grown_steps}
    try:
        print(table(curves(asked.json, steps, asked.seeds)))
    except ValueError as error:
        given.error(str(error))


def curves(
    file: Path, steps: Mapping[str, int], seeds: Sequence[int], operator: int = OPERATOR
) -> list[dict[str, Any]]:
    """Return the curves of all starts and seeds, after training what the file lacks.

    Parameters
    ----------
    steps : mapping of int
        By start, the operator's among them.
    operator : int
        Steps of the operator's training.

    Raises
    ------
    ValueError
        If it is there with other settings.
    """
    cfg = compose(WORDS)
    small, tokenizer = models.load(cfg.model, 0, cfg.task)
    task = build(cfg, tokenizer, small.config)
    held_out = [task.training(rows) for rows in next(stream(HELD_OUT, 1))]
    small_loss = loss_of(small, held_out)

    def measure(seed: int, start: str) -> dict[str, Any]:
        points = curve(start, cfg, task, seed, steps[start], operator, held_out)
        at, seconds, losses = zip(*points, strict=True)
        return {"small_loss": small_loss, "steps": at, "cpu_s": seconds, "loss": losses}

    settings = {
        "overrides": WORDS, "steps": dict(steps), "rate": LEARNING_RATE, "operator_steps": operator,
        "operator_rate": OPERATOR_RATE, "held_out": HELD_OUT,
    }  # fmt: skip
    asked = [{"seed": seed, "start": start} for seed, start in product(seeds, STARTS)]
    return kept.measured(file, settings, asked, measure)


def curve(
    name: str,
    cfg: DictConfig,
    task: Task,
    seed: int,
    steps: int,
    operator: int,
    held_out: Sequence[Any],
) -> list[tuple[int, float, float]]:
    """Return steps, CPU seconds and held-out loss of the larger model from one start.

    The stream goes on from the operator's steps to the model's own; ``steps`` are both together.
    """
    small, _ = models.load(cfg.model, 0, cfg.task)
    torch.manual_seed(seed)
    began, batches = time.process_time(), stream(seed, steps)
    points: list[tuple[int, float, float]] = []

    def look(model: PreTrainedModel, step: int) -> None:
        points.append((step, round(time.process_time() - began, 2), loss_of(model, held_out)))

    def watching(model: PreTrainedModel, before: int, last: int) -> Callable[[int, Any], None]:
        def watch(step: int, _: Any) -> None:
            if step % EVERY == 0 or step == last:
                look(model, before + step)

        return watch

    taken = 0
    if name == SCRATCH:
        model = adapter.built(small, cfg.adapter)
        look(model, 0)
    else:
        noise = 0.0 if name == STACKED else cfg.adapter.noise
        asked = OmegaConf.create({**plain(cfg.adapter), "noise": noise})
        grafted = adapter.attach(small, asked, seed)
        look(grafted, 0)
        if name == LIGO:
            taken = operator
            train(grafted, task, batches, taken, OPERATOR_RATE, watching(grafted, 0, taken))
        model = materialized(grafted)
    left = steps - taken
    train(model, task, batches, left, LEARNING_RATE, watching(model, taken, left))
    return points


def loss_of(model: PreTrainedModel, held_out: Sequence[Any]) -> float:
    """Return the mean of the held-out batches' losses."""
    model.eval()
    with torch.inference_mode():
        return float(np.mean([float(model(**batch).loss) for batch in held_out]))


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return a line per curve: when it is where training from scratch ends."""
    scratch = {one["seed"]: one for one in measured if one["start"] == SCRATCH}
    rows = []
    for one in measured:
        whole = scratch[one["seed"]]
        goal = whole["loss"][-1]
        at = next((i for i, loss in enumerate(one["loss"]) if loss <= goal), None)
        reached = ["not reached", "-", "-", "-"]
        if at is not None:
            steps, seconds = one["steps"][at], one["cpu_s"][at]
            reached = [
                str(steps), f"{steps / whole['steps'][-1]:.0%}",
                f"{seconds:.0f}", f"{seconds / whole['cpu_s'][-1]:.0%}",
            ]  # fmt: skip
        ends = [f"{one['loss'][0]:.4f}", f"{one['loss'][-1]:.4f} after {one['steps'][-1]}"]
        rows.append([str(one["seed"]), one["start"], *ends, *reached])
    return markdown.table(HEAD, rows)


if __name__ == "__main__":
    main()
