"""``python -m benchmarks.ligo``: steps and CPU seconds to a loss, from scratch, stacked, and grown.

The larger model of ``experiment=ligo`` is trained on the stream that the embedded decoder, which is
the smaller one, was trained on: from weights drawn by transformers, from the smaller one's layers
and units copied (StackBERT's depth, LiGO's ``width=select``, no training of the operator), and from
LiGO after 100 steps of its operator. The loss is that of held-out stories and expressions; each
start reaches the loss that training from scratch ends with after so many of its steps. CPU seconds
are of all of it: building the model, the operator's steps, and looking at the loss.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from benchmarks import markdown
from fl_app import models
from fl_app.adapters.ligo import adapter
from fl_app.adapters.ligo.operator import materialized
from fl_app.config import compose, plain
from fl_app.pretraining.llama import LEARNING_RATE, stream
from fl_app.tasks import build
from fl_app.tasks.base import Task

WORDS = "experiment=ligo"
OPERATOR = 100  # steps of the operator's training, of the paper
OPERATOR_RATE = 5e-3
EVERY = 10  # steps between two looks at the held-out loss
HELD_OUT = 10**6  # seed of their stream, which trains nothing
SEEDS = (0, 1, 2)
Curve = list[tuple[int, float, float]]  # steps, CPU seconds, held-out loss


def main() -> None:
    """Train each start on each seed, and print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--steps", type=int, default=300, help="of training from scratch (300)")
    steps = given.parse_args().steps
    torch.set_num_threads(1)
    cfg = compose(WORDS)
    small, tokenizer = models.load(cfg.model, 0, cfg.task)
    task = build(cfg, tokenizer, small.config)
    held_out = [task.training(rows) for rows in next(stream(HELD_OUT, 1))]
    rows = []
    for seed in SEEDS:
        curves = {
            name: start(name, cfg, task, seed, steps, held_out)
            for name in ("scratch", "stacked", "ligo")
        }
        goal = curves["scratch"][-1][2]
        whole = curves["scratch"][-1]
        for name, curve in curves.items():
            reached = next((at for at in curve if at[2] <= goal), None)
            rows.append(
                [
                    str(seed), name, f"{curve[0][2]:.3f}", f"{curve[-1][2]:.3f}",
                    *(
                        ("not reached", "-", "-")
                        if reached is None
                        else (str(reached[0]), f"{reached[0] / whole[0]:.0%}", f"{reached[1]:.0f}")
                    ),
                ]
            )  # fmt: skip
    head = ["seed", "start", "first loss", "last loss", "steps to scratch's last", "share", "CPU s"]
    print(markdown.table(head, rows))


def start(
    name: str, cfg: DictConfig, task: Task, seed: int, steps: int, held_out: Sequence[Any]
) -> Curve:
    """Return the curve of the larger model from one start; steps of an operator count."""
    small, _ = models.load(cfg.model, 0, cfg.task)
    torch.manual_seed(seed)
    began, batches = time.process_time(), stream(seed, steps + OPERATOR)
    curve: Curve = []
    if name == "scratch":
        model = type(small)(adapter.larger(small.config, cfg.adapter))
    else:
        more = {"noise": 0.0, "width": "select"} if name == "stacked" else {}
        asked = OmegaConf.create({**plain(cfg.adapter), **more})
        grafted = adapter.attach(small, asked, seed)
        if name == "ligo":
            trained(grafted, task, batches, OPERATOR, OPERATOR_RATE, held_out, curve, began)
        model = materialized(grafted)
    trained(model, task, batches, steps - len_of(curve), LEARNING_RATE, held_out, curve, began)
    return curve


def len_of(curve: Curve) -> int:
    """Return the steps of a curve."""
    return curve[-1][0] if curve else 0


def trained(
    model: PreTrainedModel,
    task: Task,
    batches: Iterator[Any],
    steps: int,
    rate: float,
    held_out: Sequence[Any],
    curve: Curve,
    began: float,
) -> None:
    """Train ``model`` on ``steps`` batches of the stream, and add to the curve."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps, pct_start=0.05, cycle_momentum=False
    )
    before = len_of(curve)
    if not curve:
        curve.append((0, time.process_time() - began, loss_of(model, held_out)))
    for step in range(1, steps + 1):
        model.train()
        losses = [model(**task.training(rows)).loss for rows in next(batches)]
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % EVERY == 0 or step == steps:
            at = time.process_time() - began
            curve.append((before + step, at, loss_of(model, held_out)))


def loss_of(model: PreTrainedModel, held_out: Sequence[Any]) -> float:
    """Return the mean of the held-out batches' losses."""
    model.eval()
    with torch.inference_mode():
        return float(np.mean([float(model(**batch).loss) for batch in held_out]))


if __name__ == "__main__":
    main()
