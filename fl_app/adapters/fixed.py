"""The digest of what an adapter makes on every machine, and neither trains nor sends."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Return the SHA-256 of names, types, shapes and bits."""
    made = hashlib.sha256()
    for name, one in tensors:
        values = one.detach().cpu().contiguous()
        made.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        made.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return made.digest()
