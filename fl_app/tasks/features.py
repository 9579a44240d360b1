"""Frozen features of rows: the words of a prompt, as the base embeds them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from fl_app.models.generation import unwrapped
from fl_app.tasks.base import Task
from fl_app.tasks.evaluation import Rows, batches, evaluating


def features(model: PreTrainedModel, task: Task, rows: Rows, size: int) -> NDArray[np.float32]:
    """Return the mean token embedding of every row's prompt, projected, float32 [rows, size].

    What a row is about shows in its words: behind the blocks of the embedded decoder the nearest
    mean finds the kind of story of a third of the rows, before them of nearly all. The projection
    is random and the same on every machine; distances stay about what they are (Johnson and
    Lindenstrauss 1984), and nobody need know the model's width. Each row is scaled to length 1.

    Parameters
    ----------
    model : PreTrainedModel
        The model, or PEFT's around it; its mode is restored.
    task : Task
        One whose prompts are tokens.
    rows : sequence of dict, or Dataset
        What is looked at.
    size : int
        Features of a row.

    Raises
    ------
    ValueError
        If the task has no prompts of tokens alone.
    """
    maker: Any = task
    if not hasattr(maker, "prompts"):
        raise ValueError("frozen features are of prompts, and this task has none")
    embedding = unwrapped(model).get_input_embeddings()
    device = next(model.parameters()).device
    found = []
    with evaluating(model), _without_adapter(model):
        for some in batches(rows):
            inputs = {k: v.to(device) for k, v in maker.prompts(some).items()}
            states = embedding(inputs["input_ids"]).float()
            mask = inputs["attention_mask"][..., None].to(states)
            found.append(((states * mask).sum(1) / mask.sum(1)).cpu().numpy())
    means = np.concatenate(found)
    rng = np.random.default_rng(0)
    projected = means @ rng.standard_normal((means.shape[1], size))
    return (projected / np.linalg.norm(projected, axis=1, keepdims=True)).astype(np.float32)


def _without_adapter(model: PreTrainedModel) -> Any:
    return model.disable_adapter() if isinstance(model, PeftModel) else torch.no_grad()
