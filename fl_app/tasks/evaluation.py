"""Predicting: batches of rows through a model that is left as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

Rows: TypeAlias = Sequence[dict[str, Any]] | Dataset

PREDICT_ROWS = 16  # a batch; bounds its memory, does not change the predictions


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode and without gradients; the training mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def batches(rows: Rows) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists of ``PREDICT_ROWS``, in order."""
    for first in range(0, len(rows), PREDICT_ROWS):
        yield [rows[i] for i in range(first, min(first + PREDICT_ROWS, len(rows)))]


def greedy(
    model: PreTrainedModel, inputs: dict[str, Tensor], max_new_tokens: int, pad: int, end: int
) -> Tensor:
    """The likeliest token at every step, [rows, tokens], whatever the checkpoint's own habits.

    Args:
        inputs: ``input_ids`` and ``attention_mask`` [rows, tokens].
        pad: token behind the end of a row.
        end: token that ends a row.
    """
    device = next(model.parameters()).device
    generate: Any = model.generate  # a Tensor to mypy, as any attribute of a module is
    return generate(
        **{name: value.to(device) for name, value in inputs.items()},
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=pad,
        eos_token_id=end,
    )
