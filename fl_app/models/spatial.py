"""Spatial embeddings: where a word stands on the page, as an addition to its embedding."""

import torch
from torch import Tensor, nn

COORDINATES = 1024  # rows of a coordinate's table; boxes use 0..1000
FREQUENCIES = 6  # Fourier features of a coordinate: from half a period to 16 periods per page


class TableSpatial(nn.Module):
    """Sum of learned embeddings of x0, y0, x1 and y1, a layer norm and a linear layer.

    It has 2 (1024 d) + 2 d + d^2 + d scalars: 2,164,992 at d = 768.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.x = nn.Embedding(COORDINATES, d_model)
        self.y = nn.Embedding(COORDINATES, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.matcher = nn.Linear(d_model, d_model)

    def forward(self, bbox: Tensor) -> Tensor:
        """Boxes [pages, tokens, 4] of integers 0..1000 -> embeddings [pages, tokens, d]."""
        x0, y0, x1, y1 = bbox.unbind(-1)
        return self.matcher(self.norm(self.x(x0) + self.y(y0) + self.x(x1) + self.y(y1)))


class FourierSpatial(nn.Module):
    """Sines and cosines of the four coordinates and a linear layer (48 d + d scalars).

    Tancik et al., "Fourier features let networks learn high frequency functions" (2020,
    https://arxiv.org/abs/2006.10739).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.projection = nn.Linear(4 * 2 * FREQUENCIES, d_model)

    def forward(self, bbox: Tensor) -> Tensor:
        """Boxes [pages, tokens, 4] of integers 0..1000 -> embeddings [pages, tokens, d]."""
        weight = self.projection.weight
        octaves = torch.arange(FREQUENCIES, dtype=weight.dtype, device=weight.device)
        angles = (bbox.to(weight.dtype) / 1000).unsqueeze(-1) * (torch.pi * 2**octaves)
        return self.projection(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2))


SPATIAL: dict[str, type[nn.Module]] = {"table": TableSpatial, "fourier": FourierSpatial}
