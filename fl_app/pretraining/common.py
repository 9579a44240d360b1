"""Functions that the commands for training the embedded models share."""

import argparse
import hashlib
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def arguments(description: str, steps: int, seed: int) -> argparse.Namespace:
    """Parse ``out``, ``steps`` and ``seed``; seed torch and limit it to one thread."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=seed)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    return given


def one_cycle(
    optimizer: torch.optim.Optimizer, rate: float | list[float], steps: int, warm_up: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return linear warm-up over a share of the steps, then cosine decay, from the highest rate.

    The first of few steps is warm-up: with a warm-up of one step in all torch divides by zero.
    """
    share = max(warm_up, min(2 / steps, 0.9))
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps, pct_start=share, cycle_momentum=False
    )


def finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return a trained tokenizer, with the tokens of ``SPECIAL``, in transformers' class."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write both to ``folder``, and print the digest for ``sha256`` in conf/model."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print("sha256", hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
