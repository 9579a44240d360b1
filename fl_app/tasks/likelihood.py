"""How likely the right answers are to a causal model: its perplexity."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fl_app.data.padding import IGNORED
from fl_app.tasks import at_labels, metrics, virtual_tokens
from fl_app.tasks.evaluation import Rows, batches, evaluating

Examples = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]
"""From rows to the arguments of the model's ``forward``, with ``labels``: ``Task.training``."""


def perplexity(model: PreTrainedModel, training: Examples, rows: Rows) -> float:
    """Return exp of the mean negative log-likelihood of a token, over the labels of all rows.

    A long row counts by its tokens. 1 is the best value.

    Parameters
    ----------
    model : PreTrainedModel
        A causal model, whose loss is the mean over the labels after the first token.
    training : callable
        Makes the batches.
    rows : sequence of dict, or Dataset
        What is scored.
    """
    device = next(model.parameters()).device
    # The first token is predicted by virtual tokens alone.
    first = 0 if virtual_tokens.has_some(model) else 1
    total, tokens = 0.0, 0
    with evaluating(model):
        for some in batches(rows):
            inputs = {name: value.to(device) for name, value in training(some).items()}
            count = int((inputs["labels"][:, first:] != IGNORED).sum())
            if count:
                total += float(at_labels.loss(model, inputs)) * count
                tokens += count
    return metrics.perplexity(total / tokens if tokens else 0.0)
