"""Train the embedded visual encoder: ``python -m fl_app.pretraining.beit --out DIR``.

A tiny BEiT learns from a stream of pages of pretraining providers which mark covers each patch, and
in which colour (``fl_app.data.invoices.marks``). The head that names them is discarded: a VT5 is
not told what they are called. It is deterministic (one thread, one seed) and takes two minutes of
one CPU core.
"""

import hashlib
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BeitConfig, BeitModel

from fl_app.config import compose, plain
from fl_app.data.invoices.load import PRETRAINING_PROVIDERS, PRETRAINING_SEED, make_documents
from fl_app.data.invoices.marks import COLOURS, KINDS
from fl_app.data.invoices.pictures import pixel_values
from fl_app.data.invoices.provider import POOLS
from fl_app.pretraining.common import arguments, one_cycle

BATCH_DOCUMENTS = 16
LEARNING_RATE = 3e-3
WARM_UP = 0.1  # share of the steps
NONE = 0  # the class of a patch without a mark
NONE_WEIGHT = 0.1  # most patches have none
CLASSES = 1 + len(KINDS) * len(COLOURS)


def made(first: int, count: int) -> list[dict[str, Any]]:
    """Return a document of each of ``count`` pretraining providers, with a mark of every kind."""
    providers = range(first, first + count)
    return make_documents(
        PRETRAINING_SEED, POOLS["pretraining"], providers, range(1), marks=len(KINDS)
    )


def classes(rows: list[dict[str, Any]], side: int) -> Tensor:
    """Return the class of each patch, [rows, side^2], row by row: of the mark over its centre."""
    centres = (torch.arange(side) + 0.5) * 1000 / side
    found = torch.full((len(rows), side, side), NONE)
    for page, row in zip(found, rows, strict=True):
        for mark in row["marks"]:
            x0, y0, x1, y1 = mark["box"]
            across, down = (
                (low <= centres) & (centres < high) for low, high in ((x0, x1), (y0, y1))
            )
            kind, colour = KINDS.index(mark["kind"]), [*COLOURS].index(mark["colour"])
            page[down[:, None] & across] = 1 + kind * len(COLOURS) + colour
    return found.flatten(1)


def train(model: BeitModel, head: nn.Linear, steps: int) -> None:
    """Train on the class of every patch; no document is repeated."""
    config: Any = model.config
    weight = torch.ones(CLASSES)
    weight[NONE] = NONE_WEIGHT
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01)
    schedule = one_cycle(optimizer, LEARNING_RATE, steps, WARM_UP)
    start = time.process_time()
    for step in range(steps):
        rows = made(BATCH_DOCUMENTS * step, BATCH_DOCUMENTS)
        states = model(pixel_values(rows, plain(config.to_dict()))).last_hidden_state[:, 1:]
        wanted = classes(rows, config.image_size // config.patch_size)
        loss = nn.functional.cross_entropy(head(states).flatten(0, 1), wanted.flatten(), weight)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.process_time() - start
            print(f"step {step + 1} loss {loss.item():.3f} {seconds:.0f} s", flush=True)


def evaluate(model: BeitModel, head: nn.Linear, rows: list[dict[str, Any]]) -> float:
    """Return the share of the patches with a mark whose class is the likeliest."""
    config: Any = model.config
    wanted = classes(rows, config.image_size // config.patch_size)
    with torch.inference_mode():
        states = model(pixel_values(rows, config.to_dict())).last_hidden_state[:, 1:]
        right = head(states).argmax(-1) == wanted
    return float(right[wanted != NONE].float().mean())


def main() -> None:
    """Train the encoder, save it, and print how many marked patches it names."""
    given = arguments("pretrain the embedded visual encoder", steps=600, seed=PRETRAINING_SEED)
    config = BeitConfig(**plain(compose("model=vt5-tiny-quecc").model.config.visual))
    model = BeitModel(config, add_pooling_layer=False).train()
    head = nn.Linear(config.hidden_size, CLASSES)
    print(f"{sum(p.numel() for p in model.parameters())} weights")
    train(model, head, given.steps)
    model.eval().save_pretrained(given.out)
    weights = (given.out / "model.safetensors").read_bytes()
    print("sha256", hashlib.sha256(weights).hexdigest())
    held_out = made(PRETRAINING_PROVIDERS + BATCH_DOCUMENTS * given.steps, 64)
    print("marked patches that are named", evaluate(model, head, held_out))


if __name__ == "__main__":
    main()
