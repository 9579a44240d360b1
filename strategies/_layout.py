"""Where the states of a split model's exchange belong, once padding is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fl_app.codecs import WireError
from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.models.generation import unwrapped
from fl_app.models.head import classification_head

ROWS, LEFT = "rows", "left"  # of a layout: a line a row, and the steps that are left
MOST_STEPS = 2**16  # of a client in a round


def layout_of(model: Any, labels: Tensor, mask: Tensor) -> Tensor:
    """Return each row's states, the first that the tail reads, and how many it reads: [rows, 3].

    A row is what the cut stack reads at once: a text, or a page.

    Parameters
    ----------
    labels : Tensor
        Of the batch.
    mask : Tensor
        [rows, states], true where there is no padding; that has to be on the right.

    Raises
    ------
    FaultError
        If there is padding before a state.
    """
    lengths = mask.sum(1)
    if not torch.equal(mask, _before(lengths, mask.shape[1])):
        raise FaultError("unexpected", "a batch has padding on its left")
    inner = unwrapped(model)
    if inner.config.is_encoder_decoder:  # the decoder reads them all
        return torch.stack([lengths, torch.zeros_like(lengths), lengths], 1)
    if classification_head(inner):
        return torch.stack([lengths, torch.zeros_like(lengths), torch.ones_like(lengths)], 1)
    # The state before a token predicts it.
    read = nn.functional.pad(labels != IGNORED, (mask.shape[1] - labels.shape[1], 0))
    read = nn.functional.pad(read[:, 1:], (0, 1)).int()
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device) * read
    last, first = places.amax(1), read.argmax(1)
    return torch.stack([lengths, first, last - first], 1)


def _before(ends: Tensor, width: int, starts: Tensor | None = None) -> Tensor:
    """Return the places from starts (0) to before the ends, [rows, width]."""
    places = torch.arange(width, device=ends.device)
    found = places < ends[:, None]
    return found if starts is None else found & (places >= starts[:, None])


@dataclass(frozen=True)
class Places:
    """A batch's part of a layout.

    Attributes
    ----------
    states : Tensor
        [rows, width], true where there is a state.
    read : Tensor
        [rows, width], true where the tail reads it.
    """

    states: Tensor
    read: Tensor


def places(layout: np.ndarray, device: torch.device) -> list[Places]:
    """Return the places of each batch of an exchange.

    Parameters
    ----------
    layout : array
        [rows, 4]: the number of the batch, and what `layout_of` returns; then rows of zeros.
    """
    table = torch.from_numpy(layout[layout[:, 1] > 0].astype(np.int64)).to(device)
    found = []
    for some in table.split(table[:, 0].unique_consecutive(return_counts=True)[1].tolist()):
        _, length, first, count = some.unbind(1)
        width = int(length.max())
        found.append(Places(_before(length, width), _before(first + count, width, first)))
    return found


def spread(values: Tensor, where: Tensor) -> Tensor:
    """Return [rows, width, h] with ``values`` [states, h] where it is true, and zeros elsewhere."""
    whole = values.new_zeros(*where.shape, values.shape[-1])
    return whole.masked_scatter(where.unsqueeze(-1), values)


def check_layout(layout: Mapping[str, np.ndarray], states: int) -> None:
    """Check where a client says that its states belong; WireError if they cannot."""
    rows, left = layout[ROWS], float(layout[LEFT][0])
    batch, length, first, count = rows.T
    used = int((length > 0).sum())
    if (
        (rows != np.floor(rows)).any()
        or (rows < 0).any()
        or (length[:used] == 0).any()
        or (batch > len(rows)).any()
        or (first + count > length).any()
        or length.sum() != states
    ):
        raise WireError(f"the layout of {used} rows does not fit {states} states")
    if not (count[:used] > 0).any():
        raise WireError("the tail reads no state")
    if not 0 <= left < MOST_STEPS or left != int(left):
        raise WireError(f"{left} steps left, should be a whole number below {MOST_STEPS}")
