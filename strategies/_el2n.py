"""EL2N (Paul et al. 2021, https://arxiv.org/abs/2107.07075): which rows a model errs on most."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.models.generation import unwrapped
from fl_app.tasks.base import Task
from fl_app.tasks.evaluation import batches


def el2n(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return || softmax - onehot ||_2 of each label, in [0, sqrt 2], and its row in the labels."""
    labels, logits = batch["labels"], model(**batch).logits
    if labels.dim() == 1:
        owner = torch.arange(len(labels), device=labels.device)
    else:
        if not unwrapped(model).config.is_encoder_decoder:  # a token is predicted by the one before
            logits, labels = logits[:, -labels.shape[1] : -1], labels[:, 1:]
        has_label = labels != IGNORED
        owner, labels = has_label.nonzero()[:, 0], labels[has_label]
        if logits.dim() > 2:  # a VT5 computes no others
            logits = logits[has_label]
    errors = logits.float().softmax(-1)
    return (errors - nn.functional.one_hot(labels, errors.shape[-1])).norm(dim=-1), owner


def scores(model: Any, task: Task, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the mean EL2N of each row's labels; a document's are those of all its questions."""
    device = next(model.parameters()).device
    batch = {name: x.to(device) for name, x in task.training(rows).items()}
    errors, owner = (x.cpu().numpy() for x in el2n(model, batch))
    row = np.repeat(np.arange(len(rows)), [task.examples([one]) for one in rows])
    if len(row) != len(batch["labels"]):
        raise FaultError("unexpected", "sfprompt prunes rows, and one has several sequences")
    sums, counts = (np.bincount(row[owner], w, len(rows)) for w in (errors, None))
    return sums / counts.clip(1)


def pruned(model: Any, task: Task, rows: Dataset, gamma: float, batch_size: int) -> np.ndarray:
    """Return the places of the floor(gamma |D|) rows of the largest EL2N, at least 1, in order."""
    model.eval()
    with torch.no_grad():
        found = [scores(model, task, some) for some in batches(rows, batch_size)]
    order = np.argsort(-np.concatenate(found), kind="stable")
    return np.sort(order[: max(1, int(gamma * len(rows)))]).astype(np.int64)
