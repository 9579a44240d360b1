"""Predicting: batches of rows through a model that is left as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from fl_app.models.generation import greedy_config, unwrapped
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.tasks import virtual_tokens

Rows: TypeAlias = Sequence[dict[str, Any]] | Dataset

PREDICT_ROWS = 16  # a batch; bounds its memory, does not change the predictions


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch to evaluation mode and no gradients for a while; the mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def batches(rows: Rows, size: int = PREDICT_ROWS) -> Iterator[list[dict[str, Any]]]:
    """Yield rows in lists of ``size``, in order."""
    for first in range(0, len(rows), size):
        yield [rows[i] for i in range(first, min(first + size, len(rows)))]


def greedy(
    model: PreTrainedModel, inputs: dict[str, Tensor], max_new_tokens: int, pad: int, end: int
) -> Tensor:
    """Return what a model generates with the likeliest token at every step, [rows, tokens].

    Of the checkpoint's own generation config only the starts count, see
    ``fl_app.models.generation``.

    Parameters
    ----------
    inputs : dict of tensors
        Arguments of the model's ``generate``, such as ``input_ids`` [rows, tokens].
    max_new_tokens : int
        Tokens that are generated at most.
    pad : int
        The token after the end of a row.
    end : int
        The token that ends a row.
    """
    device = next(model.parameters()).device
    generate: Any = model.generate  # a Tensor to mypy, as any attribute of a module is
    # PEFT's wrapper has this method too, and calls that of the model inside.
    generating = unwrapped(model)
    own = generating.generation_config
    fresh = greedy_config(own, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=end)
    # What the config that is given leaves open, transformers takes from the model's own.
    generating.generation_config = fresh
    inputs = {name: value.to(device) for name, value in inputs.items()}
    try:
        # VT5 encodes prompts and page before it generates: what PEFT does wrong is not reached.
        by_peft = isinstance(generating, VT5ForConditionalGeneration)
        if virtual_tokens.has_some(model) and not by_peft:
            return virtual_tokens.greedy(model, inputs, fresh)
        return generate(**inputs, generation_config=fresh)
    finally:
        generating.generation_config = own


def check_predictions(predictions: Sequence[Any], rows: Rows) -> None:
    """Refuse predictions that are not one for each row.

    Raises
    ------
    ValueError
        There are not as many predictions as rows, or none.
    """
    if len(predictions) != len(rows) or not predictions:
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(rows)}")
