"""Two ways to say how many bytes of a model a transfer carried.

- ``sent``: what the codec wrote; every stored tensor once.
- ``competition``: what the log of the PFL-DocVQA baseline counted. It summed over the entries of
  ``state_dict()`` and left out, by name, the frozen parameters. ``state_dict()`` lists a tensor
  that several modules share under each of its names, ``named_parameters()`` under the first one
  alone: the other names, the aliases, were therefore never recognised as frozen, and were counted
  in fp32 although no one has to send them. That this is what happened is inferred: it explains the
  published totals of both LoRA entries to the last digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

COLUMNS = {"sent": "payload_bytes", "competition": "competition_bytes"}
"""The ledger's column for each convention."""

FP32_BYTES = 4
GIGABYTE = 2**30  # the competition's GB


def alias_bytes(model: nn.Module) -> int:
    """Return the fp32 bytes of the parameters that ``state_dict()`` lists once more.

    Args:
        model: with or without PEFT's wrapper, whose names do not matter here.
    """
    listed = dict(model.named_parameters())
    storages = {parameter.data_ptr() for parameter in listed.values()}
    return FP32_BYTES * sum(
        tensor.numel()
        for name, tensor in model.state_dict().items()
        if name not in listed and tensor.data_ptr() in storages
    )
