"""What a sender writes, and what a receiver gets of it."""

import numpy as np

from fl_app.codecs import Codec, Wire
from fl_app.tree import Tree


def encode(codec: Codec, tree: Tree, ref: Tree | None = None, seed: int = 0) -> Wire:
    """Return the first message of a sender; the reference is by default the tree itself."""
    ref = tree if ref is None else ref
    return codec.encode(tree, codec.init(ref, seed), ref)[0]


def round_trip(codec: Codec, tree: Tree, ref: Tree | None = None, seed: int = 0) -> Tree:
    """Return what a receiver decodes of `encode`."""
    return codec.decode(encode(codec, tree, ref, seed), tree if ref is None else ref)


def there_and_back(codec: Codec, x: np.ndarray) -> np.ndarray:
    """Return what arrives of one tensor."""
    return round_trip(codec, {"x": x})["x"]


def relative_error(codec: Codec, x: np.ndarray) -> float:
    """Return ``|decoded - x|_2 / |x|_2`` of one tensor, in float64."""
    wide = x.astype(np.float64)
    return float(np.linalg.norm(there_and_back(codec, x) - wide) / np.linalg.norm(wide))
