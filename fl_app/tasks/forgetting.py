"""What training forgets: the split ``source`` has rows of what the base could do before.

After Biderman et al. 2024, https://arxiv.org/abs/2405.09673, section 4: how much of the score on
the source is lost, and how diverse the answers still are. Their diversity counts different answers
to one prompt; temperature and number of samples are ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from fl_app.models.generation import STARTS, unwrapped
from fl_app.tasks import virtual_tokens
from fl_app.tasks.base import Task
from fl_app.tasks.evaluation import Rows, batches, evaluating
from fl_app.tasks.metrics import oriented

SOURCE = "source"
FORGOTTEN, DISTINCT = "forgotten", "distinct_answers"
PROMPT_ROWS = 16  # of the source, whose prompts are answered several times
SAMPLES = 8
TEMPERATURE = 0.8


def forgotten(metric: str, before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return how much worse a metric is than before training; negative where it is better."""
    return oriented(metric, before[metric]) - oriented(metric, now[metric])


def distinct_answers(
    model: PreTrainedModel, task: Task, rows: Rows, max_new_tokens: int, seed: int
) -> float | None:
    """Return the share of different answers among `SAMPLES` to a prompt, a mean over prompts.

    Parameters
    ----------
    model : PreTrainedModel
        The model, or PEFT's around it; its mode is restored.
    task : Task
        The run's; of documents, what makes its prompts is its ``collator``.
    rows : sequence of dict, or Dataset
        The source; the first `PROMPT_ROWS` are used.
    max_new_tokens : int
        Tokens of an answer at most.
    seed : int
        Of the draws.

    Returns
    -------
    share : float or None
        From 1 / `SAMPLES` to 1; None of a task that writes no answers, or where PEFT puts virtual
        tokens before a text.
    """
    maker: Any = getattr(task, "collator", task)
    if not hasattr(maker, "prompts") or virtual_tokens.has_some(model):
        return None
    some = next(batches([rows[i] for i in range(min(PROMPT_ROWS, len(rows)))]))
    generating = unwrapped(model)
    own = generating.generation_config
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in maker.prompts(some).items()}
    starts = {name: getattr(own, name, None) for name in STARTS}
    config = GenerationConfig(
        do_sample=True, temperature=TEMPERATURE, top_k=0, num_return_sequences=SAMPLES,
        max_new_tokens=max_new_tokens, pad_token_id=maker.pad, eos_token_id=maker.end, **starts,
    )  # fmt: skip
    generating.generation_config = config
    generate: Any = model.generate  # a Tensor to mypy, as any attribute of a module is
    devices = [device] if device.type == "cuda" else []
    try:
        with evaluating(model), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            ids = generate(**inputs, generation_config=config)
    finally:
        generating.generation_config = own
    groups = ids.reshape(-1, SAMPLES, ids.shape[1]).tolist()
    return sum(len({*map(tuple, group)}) for group in groups) / (SAMPLES * len(groups))
