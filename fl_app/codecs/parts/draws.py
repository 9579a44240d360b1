"""Shared randomness: what sender and receiver both draw from 4 bytes that are sent.

The draws are the raw output of Philox, which numpy promises to keep, and not those of a Generator,
which it may change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import State, Stream
from fl_app.tree import Tree

NONCE = Stream(8, 4)
"""The section that names a draw, a little-endian uint32."""


def init(ref: Tree, seed: int = 0) -> State:
    """Return the state of a codec that draws: its seed and the number of its draws, uint64."""
    del ref
    return np.array([seed % 2**64, 0], np.uint64)


def next_nonce(state: State) -> tuple[bytes, State]:
    """Return the section that names the next draw, and the state after it."""
    seed, count = map(int, state)
    nonce = np.random.SeedSequence([seed, count]).generate_state(1).astype("<u4").tobytes()
    return nonce, np.array([seed, count + 1], np.uint64)


def integers(nonce: bytes, n: int) -> NDArray[np.uint32]:
    """Return n uniform 32-bit integers, the same on every machine."""
    key = int.from_bytes(nonce, "little")
    raw = np.random.Philox(key=key).random_raw(-(-n // 2))
    return raw.astype("<u8", copy=False).view("<u4").astype(np.uint32, copy=False)[:n]


def uniform(nonce: bytes, n: int) -> NDArray[np.float32]:
    """Return n float32 values, uniform in [0, 1) with steps of 2**-24."""
    return (integers(nonce, n) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
