"""The loss of a batch, with the output layer computed only where there are labels.

A prompt has no labels, but a causal model of transformers computes the scores of its whole
vocabulary after each of its tokens. It is the largest layer of a small model.

An encoder-decoder reads the prompt in its encoder. Its decoder reads the labels alone, as many as
the longest row of a batch has, so that every column has one and none can be left out. What remains
is the padding of shorter rows: encoder-decoders of transformers compute the scores of all positions
(they know no ``logits_to_keep``), and add to them what differs by model, so they compute their own
loss here.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.loss.loss_utils import ForCausalLMLoss

from fl_app.data.padding import IGNORED
from fl_app.models.generation import unwrapped


def loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return ``model(**batch).loss``, to rounding.

    Parameters
    ----------
    model : Module
        Of transformers, or PEFT's wrapper around one.
    batch : mapping of tensors
        The arguments of its ``forward``, ``labels`` among them, on the model's device.
    """
    columns = (batch["labels"] != IGNORED).any(0).nonzero().flatten() if _picks(model) else None
    # Virtual tokens alone are before the first token, and nothing predicts it.
    if columns is None or not len(columns) or columns[0] == 0:
        found: Tensor = model(**batch).loss
        return found
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, logits_to_keep=columns - 1, use_cache=False).logits
    labels = batch["labels"][:, columns]
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def _picks(model: Any) -> bool:
    """Tell whether a model computes chosen logits, and its loss is their cross entropy alone."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False  # their columns are others
    inner = unwrapped(model)
    return (
        getattr(inner, "loss_function", None) is ForCausalLMLoss
        and "logits_to_keep" in inspect.signature(inner.forward).parameters
        and not getattr(inner.config, "output_router_logits", False)
    )
