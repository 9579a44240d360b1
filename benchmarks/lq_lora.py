"""How far a base of few bits is from its weights: ``python -m benchmarks.lq_lora``.

For the embedded decoder and a BERT-like model of random weights, over all linear layers but the
head: bits of a weight of the base, counted from packed bytes, bits with the factors in 32 bits, and
the error sqrt(sum ||W - W'||^2 / sum ||W||^2), of

- ``nf4``: the codec of this project, blocks of 64 with float32 scales;
- ``nf4 of bitsandbytes``: the library's, on the CPU, blocks of 64;
- ``loftq``: LoftQ's alternation (Li et al. 2023, https://arxiv.org/abs/2310.08659), five steps over
  the codec nf4; PEFT's own wants a GPU;
- ``lq_lora B``: LQ-LoRA at a budget of B bits, its widths chosen by the integer program.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from bitsandbytes import functional
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.markdown import table
from fl_app import models
from fl_app.adapters.lq_lora.budget import choose
from fl_app.adapters.lq_lora.decompose import decompose
from fl_app.adapters.lq_lora.normal_float import Width
from fl_app.codecs import from_spec
from fl_app.config import compose

NF4 = from_spec({"id": "nf4", "block": 64, "scale": "fp32"})
GRID = [Width(b, 8, "bfloat16", n, 256) for b in (2, 3, 4) for n in (16, 32, 64)]
BUDGETS = (2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 4.25)
LOFTQ_STEPS = 5
Weights = dict[str, Tensor]


class Base(NamedTuple):
    """What a base takes, in bytes, and its squared error."""

    nbytes: int
    squared: float


def decoder() -> Weights:
    """Return the linear layers of the embedded decoder but its head."""
    cfg = compose("model=llama-tiny task=word_problems data=word_problems")
    model, _ = models.load(cfg.model, 0, cfg.task)
    return linear(model, but=("lm_head",))


def encoder() -> Weights:
    """Return the linear layers of a small BERT of random weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=512,
    )  # fmt: skip
    return linear(BertModel(config))


def linear(model: nn.Module, but: Iterable[str] = ()) -> Weights:
    """Return the weights of all linear layers by name."""
    return {
        name: module.weight.detach().float()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in but
    }


def nf4(w: Tensor) -> tuple[Tensor, int]:
    """Return ``w`` through the codec nf4, and its bytes."""
    tree = {"w": w.numpy()}
    wire, _ = NF4.encode(tree, NF4.init(tree), tree)
    return torch.from_numpy(NF4.decode(wire, tree)["w"]), wire.nbytes


def by_codec(w: Tensor) -> Base:
    """Return the base of the codec nf4."""
    q, nbytes = nf4(w)
    return Base(nbytes, float((w - q).square().sum()))


def by_bitsandbytes(w: Tensor) -> Base:
    """Return that of bitsandbytes; its scales are float32, two codes share a byte."""
    packed, state = functional.quantize_4bit(w.reshape(-1), blocksize=64, quant_type="nf4")
    q = functional.dequantize_4bit(packed, state).reshape(w.shape)
    return Base(packed.numel() + 4 * state.absmax.numel(), float((w - q).square().sum()))


def by_loftq(w: Tensor, r: int) -> Base:
    """Return the last of five steps: Q = nf4(W - L1 L2), then L1 L2 = best rank r of W - Q."""
    product, nbytes = torch.zeros_like(w), 0
    for _ in range(LOFTQ_STEPS):
        q, nbytes = nf4(w - product)
        u, s, v = torch.linalg.svd(w - q, full_matrices=False)
        product = (u[:, :r] * s[:r]) @ v[:r]
    return Base(nbytes, float((w - q - product).square().sum()))


def in_width(w: Tensor, r: int, width: Width, iterations: int) -> Base:
    """Return the base of one matrix in one width."""
    error = decompose(w, r, width, iterations=iterations).errors[-1]
    return Base(width.nbytes(w.numel()), error**2)


def by_lq_lora(weights: Weights, r: int, iterations: int) -> list[tuple[str, list[Base]]]:
    """Return the choice of the integer program at every budget."""
    found = [[in_width(w, r, width, iterations) for width in GRID] for w in weights.values()]
    costs = np.array([[one.squared for one in row] for row in found])
    nbytes = np.array([[one.nbytes for one in row] for row in found])
    count = sum(w.numel() for w in weights.values())
    lines = []
    for budget in BUDGETS:
        chosen = choose(costs, nbytes, budget * count / 8)
        lines.append((f"lq_lora {budget}", [row[k] for row, k in zip(found, chosen, strict=True)]))
    return lines


def lines(weights: Weights, r: int, iterations: int) -> Iterable[tuple[str, ...]]:
    """Yield a line of the table for each way to store a base."""
    count = sum(w.numel() for w in weights.values())
    norm = sum(float(w.square().sum()) for w in weights.values())
    factors = 32 * r * sum(sum(w.shape) for w in weights.values()) / count
    bases = [
        ("nf4", [by_codec(w) for w in weights.values()]),
        ("nf4 of bitsandbytes", [by_bitsandbytes(w) for w in weights.values()]),
        ("loftq", [by_loftq(w, r) for w in weights.values()]),
        *by_lq_lora(weights, r, iterations),
    ]
    for name, found in bases:
        bits = 8 * sum(one.nbytes for one in found) / count
        error = math.sqrt(sum(one.squared for one in found) / norm)
        whole = bits if name.startswith("nf4") else bits + factors
        yield name, f"{bits:.3f}", f"{whole:.2f}", f"{error:.4f}"


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description="error of a quantized base against its bits")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, weights in (("embedded decoder", decoder()), ("random BERT", encoder())):
        found = list(lines(weights, given.rank, given.iterations))
        sys.stdout.write(f"{name}, {len(weights)} matrices, rank {given.rank}\n\n")
        header = ("base", "bits a weight", "with factors", "relative error")
        sys.stdout.write(table(header, found) + "\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
