"""The head of a classifier: pretrained language models lack it, so that it is always trained."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

POOLER = re.compile(r"(.*\.pooler)(\..*)?")  # between a BERT and its head; a masked LM lacks it


def classification_head(model: nn.Module) -> list[str]:
    """Return the names of a sequence classifier's modules that are not of its language model.

    They are ``classifier`` of a BERT, ``score`` of a Llama, ``classification_head`` of a T5; and a
    pooler that the checkpoint lacked. The list is empty for other models.
    """
    if not isinstance(model, PreTrainedModel):
        return []
    classifier: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), ())
    if not isinstance(model, classifier):
        return []
    return [
        *getattr(model, "drawn_poolers", []),
        *(
            name
            for name, module in model.named_children()
            if name != model.base_model_prefix and next(module.parameters(), None) is not None
        ),
    ]


def is_classifier(architectures: Sequence[str] | None) -> bool:
    """Return whether a config.json says that its checkpoint has a trained head."""
    return any(name.endswith("ForSequenceClassification") for name in architectures or ())


def named_outputs(path: str, said: Mapping[int, str], labels: Sequence[str]) -> dict[int, str]:
    """Return the label of each output of a trained head; names are compared without case.

    Parameters
    ----------
    path : str
        The value of model.path, for messages.
    said : dict of int to str
        ``id2label`` of the checkpoint. Names such as LABEL_0, transformers' own, say nothing: the
        outputs are then in the order of ``labels``.
    labels : sequence of str
        The labels that are wanted; none for a number, which is one output of any name.

    Raises
    ------
    ValueError
        The head has another number of labels, or others.
    """
    names = [said[index] for index in sorted(said)]
    if not labels:
        if len(names) == 1:
            return dict(said)
        raise ValueError(
            f"model.path={path!r}: the head has {len(names)} labels ({', '.join(names)}), and "
            "task.problem_type=regression needs a single output: set model.head=random for a new "
            "head from the seed"
        )
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    wanted = {label.casefold(): label for label in labels}
    folded = [name.casefold() for name in names]
    if len(names) == len(labels) and unnamed:
        return dict(enumerate(labels))
    if len(wanted) == len(labels) and sorted(folded) == sorted(wanted):
        return {index: wanted[name] for index, name in enumerate(folded)}
    raise ValueError(
        f"model.path={path!r}: the head has {len(names)} labels ({', '.join(names)}), task.labels "
        f"has {len(labels)} ({', '.join(labels)}): name these in task.labels, or set "
        "model.head=random for a new head from the seed"
    )
