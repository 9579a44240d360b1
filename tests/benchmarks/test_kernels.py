"""`python -m benchmarks.kernels`: a kernel and its simple version give the same bits."""

import numpy as np
import pytest

from benchmarks import kernels, speed
from fl_app.tree import Tree, digest


def sent(name: str, tree: Tree) -> tuple[tuple[bytes, ...], str]:
    """Return the sections of a codec, and the digest of what is decoded from them."""
    codec = speed.CODECS[name]
    wire, _ = codec.encode(tree, codec.init(tree), tree)
    return wire.sections, digest(codec.decode(wire, tree))


def test_simple_versions_give_the_same_bits() -> None:
    tree = {"x": np.random.default_rng(2).standard_normal((70, 5), np.float32)}
    for kernel in kernels.kernels().values():
        for name in kernel.codecs:
            compiled = sent(name, tree)
            with kernel.replaced():
                assert sent(name, tree) == compiled


def test_every_kernel_has_a_row_for_every_codec_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "allocate", lambda fresh: None)  # it would last for the whole suite
    sets = speed.sets(1000, 2)
    heading, *rows = kernels.lines(sets, pairs=1, seconds=0)
    assert heading.count("|") == rows[-1].count("|")
    assert len(rows) - 1 == len(sets) * sum(len(k.codecs) for k in kernels.kernels().values())
