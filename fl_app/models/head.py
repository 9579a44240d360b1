"""The head of a classifier: pretrained language models lack it, so that it is always trained."""

from typing import Any

from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel


def classification_head(model: nn.Module) -> list[str]:
    """Return the names of a sequence classifier's modules that are not of its language model.

    They are ``classifier`` of a BERT, ``score`` of a Llama, ``classification_head`` of a T5. The
    list is empty for other models.
    """
    if not isinstance(model, PreTrainedModel):
        return []
    classifier: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), ())
    if not isinstance(model, classifier):
        return []
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    ]
