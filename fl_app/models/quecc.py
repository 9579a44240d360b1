"""QueCC: few visual tokens instead of many, chosen by the question.

Li et al., "Inference optimal VLMs need fewer visual tokens and more parameters" (2024,
https://arxiv.org/abs/2411.03312), section 4, and the authors' code. Symbols: a grid of g x g
features of width h, kernel kappa and stride s, g' = floor((g - kappa) / s) + 1, the question's
feature t.

    q  = conv(MLP(x + LN(W t)))        depthwise, kappa x kappa, stride s: one query a window
    k  = MLP(X), v = MLP(X)            X: the features of several layers side by side
    out = attention(q, k, v)           each query sees its own window of (g / g')^2 features

Different from the authors' code: four linear layers stand for torch's MultiheadAttention, so that
LoRA can change them, and the convolution starts as the mean of its window.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import BeitConfig

DEFAULTS = {"stride": 4, "kernel": None, "heads": 8, "levels": 1, "frozen": False}


class QueCC(nn.Module):
    """Compress a grid of features, conditioned on a question.

    Parameters
    ----------
    grid : int
        g, features along a side.
    width : int
        h, of a feature.
    text_width : int
        Of the question's feature.
    stride, kernel : int
        s and kappa.
    heads : int
        Of the attention.
    levels : int
        Layers whose features are side by side in X.

    Raises
    ------
    ValueError
        If the heads do not divide the width, or g' does not divide g.
    """

    def __init__(
        self, grid: int, width: int, text_width: int, stride: int, kernel: int, heads: int,
        levels: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.heads = grid, heads
        self.side = compressed(grid, kernel, stride)
        if width % heads:
            raise ValueError(f"quecc.heads={heads} should divide the width of a feature, {width}")
        self.text = nn.Sequential(nn.Linear(text_width, width), _norm(width))
        self.query = _mlp(width, width)
        self.key = _mlp(levels * width, width)
        self.value = _mlp(levels * width, width)
        self.downsample = nn.Conv2d(width, width, kernel, stride, groups=width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, levels: Tensor, text: Tensor, picture: Tensor) -> Tensor:
        """Return the compressed features, [questions, g'^2, h].

        Parameters
        ----------
        x : Tensor
            [pictures, g^2, h], row by row.
        levels : Tensor
            X, [pictures, g^2, levels h].
        text : Tensor
            t, [questions, text width].
        picture : Tensor
            [questions], the picture that each question is about.

        Raises
        ------
        ValueError
            If there are not g^2 features.
        """
        if x.shape[1] != self.grid**2 or levels.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"{x.shape[1]} features and {levels.shape[1]} of all levels should both be "
                f"{self.grid} x {self.grid} = {self.grid**2}"
            )
        asked = self.query(x.index_select(0, picture) + self.text(text).unsqueeze(1))
        plane = asked.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        queries = self.downsample(plane).flatten(2).transpose(1, 2)  # [questions, g'^2, h]
        keys, values = (
            self._windows(layer(mlp(levels))).index_select(0, picture)
            for layer, mlp in ((self.k, self.key), (self.v, self.value))
        )
        seen = nn.functional.scaled_dot_product_attention(
            self._split(self.q(queries).unsqueeze(2)), self._split(keys), self._split(values)
        )
        return self.o(seen.transpose(2, 3).flatten(2))

    def _windows(self, features: Tensor) -> Tensor:
        """Return [pictures, g^2, h] as [pictures, g'^2, (g / g')^2, h]."""
        side, within = self.side, self.grid // self.side
        parted = features.unflatten(1, (side, within, side, within))
        return parted.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _split(self, features: Tensor) -> Tensor:
        """Return [..., tokens, h] as [..., heads, tokens, h / heads]."""
        return features.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


def compressed(grid: int, kernel: int, stride: int) -> int:
    """Return g', the side of the compressed grid.

    Raises
    ------
    ValueError
        If it is not a divisor of g: windows would not cover the grid.
    """
    side = (grid - kernel) // stride + 1
    if min(kernel, stride) < 1 or side < 1 or grid % side:
        raise ValueError(
            f"quecc.stride={stride} and quecc.kernel={kernel} make {max(side, 0)} windows along a "
            f"side of {grid} features, which should be divided by their number: "
            f"set quecc.stride to a divisor of {grid} and quecc.kernel to null"
        )
    return side


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a compressor with all defaults; ``kernel`` is that of ``stride``.

    Parameters
    ----------
    given : mapping
        Some of ``DEFAULTS``.

    Raises
    ------
    ValueError
        If a key is unknown, or a value is of another type.
    """
    if unknown := sorted({*given} - {*DEFAULTS}):
        raise ValueError(
            f"unknown quecc {', '.join(unknown)}; known: {', '.join(sorted(DEFAULTS))}"
        )
    found = {**DEFAULTS, **given}
    found["kernel"] = found["stride"] if found["kernel"] is None else found["kernel"]
    for name, value in found.items():
        wanted = bool if name == "frozen" else int
        if type(value) is not wanted or (wanted is int and value < 1):
            kind = "true or false" if wanted is bool else "a whole number greater than 0"
            raise ValueError(f"quecc.{name}={value!r} should be {kind}")
    return found


def for_visual(given: Mapping[str, Any], visual: BeitConfig, text_width: int) -> QueCC:
    """Return the compressor of a visual encoder's patches.

    Raises
    ------
    ValueError
        If the options do not fit them.
    """
    chosen = options(given)
    size: Any = visual.image_size
    patch: Any = visual.patch_size
    if chosen["levels"] > visual.num_hidden_layers:
        raise ValueError(
            f"quecc.levels={chosen['levels']} should be at most the layers of the visual encoder, "
            f"visual.num_hidden_layers={visual.num_hidden_layers}"
        )
    del chosen["frozen"]
    return QueCC(size // patch, visual.hidden_size, text_width, **chosen)


def layers(levels: int, count: int) -> list[int]:
    """Return which of ``count`` layers are side by side in X: evenly spaced, up to the last."""
    return [count * (level + 1) // levels for level in range(levels)]


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), _norm(width))
