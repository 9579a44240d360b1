"""``python -m deploy.sizing``: bytes of a round by model and codec, for planning links.

Shapes are those of the real architectures (``benchmarks.published``). A tensor of each shape is
filled with normal values and encoded, down and up, with the codecs of conf/codec. The size after
entropy coding depends on the values: updates are a little more compressible than normal values.
docs/deployment.md says what messages, Flower and the network add.
"""

import sys
from collections import Counter
from functools import cache

import numpy as np

from benchmarks.published import FED_SB, FEDIT, SETTINGS, Shape, exchange, scalars
from fl_app.codecs import from_spec
from fl_app.config import compose, plain

CODECS = ("fp32", "fp16", "int8", "nf4", "thin")
METHODS = ((FEDIT, 32, "LoRA, rank 32"), (FED_SB, 200, "LoRA-SB, rank 200"))
LINK = 10e6 / 8  # bytes per second: 10 Mbit/s


@cache
def payload(codec: str, direction: str, shape: Shape) -> int:
    """Return the payload bytes of one tensor of normal values.

    Parameters
    ----------
    codec : str
        A file of conf/codec.
    direction : str
        "up" or "down".
    shape : tuple of int
        Shape of the tensor.
    """
    coder = from_spec(plain(compose(f"codec={codec}").codec[direction]))
    tree = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
    zero = {"x": np.zeros(shape, np.float32)}
    wire, _ = coder.encode(tree, coder.init(zero), zero)
    return int(wire.nbytes)


def total(codec: str, direction: str, shapes: list[Shape]) -> int:
    """Return the payload bytes of a model with tensors of these shapes."""
    return sum(times * payload(codec, direction, shape) for shape, times in Counter(shapes).items())


def main() -> int:
    """Print the table; return the exit status."""
    print("Megabytes of a client's round, down + up, and seconds at 10 Mbit/s.\n")
    print(f"| model | trained | values | {' | '.join(CODECS)} |")
    print(f"|---|---|---:|{'---:|' * len(CODECS)}")
    for name in SETTINGS:
        for method, rank, label in METHODS:
            sent = exchange(name, method, rank)
            cells = []
            for codec in CODECS:
                down, up = total(codec, "down", sent.down), total(codec, "up", sent.up)
                cells.append(f"{down / 1e6:,.3g} + {up / 1e6:,.3g} ({(down + up) / LINK:,.3g} s)")
            print(f"| {name} | {label} | {scalars(sent.up):,} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
