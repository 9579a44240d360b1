"""``python -m benchmarks.quecc``: what a score costs in visual tokens.

The clients of ``experiment=quecc`` take turns, one a round, without Flower (see
``benchmarks.plain_loop``): on the embedded VT5, whose pictures are a grid of 16 x 16 patches of
which QueCC leaves 256, 64, 16, 4 or 1 token. For each: the score of the last model on the test
pages, the CPU seconds of a client's turn, and the bytes that a split before the encoder would send
of the visual tokens of one question, as float32 through the codec ``fp32``.
"""

import argparse
import sys

import numpy as np
import torch

from benchmarks import plain_loop
from benchmarks.markdown import table
from fl_app.build import open_session
from fl_app.codecs import from_spec
from fl_app.session import Session
from fl_app.tree import Tree, scalars

SIDE = 16  # patches along a side of the picture
STRIDES = (1, 2, 4, 8, 16)
HEADER = ("visual tokens", "seed", "ANLS", "accuracy", "CPU s a turn", "bytes a question", "sent")


def main() -> int:
    """Train with each number of tokens, and print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--rounds", type=int, help="turns of clients (those of the experiment)")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[(SIDE // s) ** 2 for s in STRIDES],
        choices=[(SIDE // s) ** 2 for s in STRIDES], help="numbers of visual tokens (all)",
    )  # fmt: skip
    parser.add_argument("more", nargs="*", help="further overrides")
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        for tokens in given.tokens:
            stride = SIDE // round(tokens**0.5)
            words = f"experiment=quecc seed={seed} model.config.quecc.stride={stride}"
            row = measured(" ".join([words, *given.more]), given.rounds)
            print(tokens, seed, *row, flush=True)
            rows.append([str(tokens), str(seed), *row])
    print(table(HEADER, rows))
    return 0


def measured(words: str, rounds: int | None) -> list[str]:
    """Return the cells of a configuration, after ``tokens`` and ``seed``."""
    here = open_session(words)
    clients = here.cfg.federation.clients
    turns = [(number, number % clients) for number in range(1, (rounds or here.cfg.rounds) + 1)]
    (loop,) = plain_loop.run(words, [turns])
    score = here.evaluate(loop.model, here.data["test"])
    return [
        f"{score['anls']:.4f}", f"{score['accuracy']:.2%}", f"{np.mean(loop.cpu):.1f}",
        f"{payload(here):,}", f"{scalars(here.theta0):,}",
    ]  # fmt: skip


def payload(here: Session) -> int:
    """Return the bytes of the visual tokens of the first question, as the codec writes them."""
    batch = here.task.training([here.data["test"][0]])
    with torch.inference_mode():
        tokens = here.model.get_base_model().visual_tokens(
            batch["pixel_values"], torch.tensor([0]), batch["question"][:1]
        )
    tree: Tree = {"visual": tokens.numpy()}
    codec = from_spec({"id": "fp32"})
    wire, _ = codec.encode(tree, codec.init(tree, 0), tree)
    return sum(map(len, wire.sections))


if __name__ == "__main__":
    sys.exit(main())
