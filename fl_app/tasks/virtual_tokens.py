"""Greedy answers of a model with virtual tokens (prompt and prefix tuning), by its forward pass.

PEFT 0.21 looks for the cache of keys and values under a name that transformers 5.24 no longer has:
its ``generate`` puts the virtual tokens before every new token again, and the answers are not those
of the model that was trained. It also puts them before the padding on a prompt's left, so that an
answer would depend on the longest prompt of its batch. Here each token is the likeliest of a
forward pass over all tokens before it, as in training, for rows of one length at a time.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig


def has_some(model: nn.Module) -> bool:
    """Tell whether virtual tokens stand before the texts of ``model``."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def greedy(model: Any, inputs: dict[str, Tensor], config: GenerationConfig) -> Tensor:
    """Return what ``generate`` of transformers returns, [rows, tokens]: with a decoder's prompt.

    Parameters
    ----------
    model : PeftModel
        In evaluation mode.
    inputs : dict of tensors
        ``input_ids`` and ``attention_mask``, [rows, tokens], padded on either side.
    config : GenerationConfig
        Of greedy answers, see ``fl_app.models.generation``.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    answers: dict[int, Tensor] = {}
    for length in mask.sum(1).unique().tolist():
        rows = (mask.sum(1) == length).nonzero().flatten()
        texts = ids[rows][mask[rows]].view(len(rows), length)
        answers |= dict(zip(rows.tolist(), _answers(model, texts, config), strict=True))
    both = model.config.is_encoder_decoder
    return nn.utils.rnn.pad_sequence(
        [answers[row] if both else torch.cat([ids[row], answers[row]]) for row in range(len(ids))],
        batch_first=True,
        padding_value=float(config.pad_token_id),
    )


def _answers(model: Any, texts: Tensor, config: GenerationConfig) -> Tensor:
    """Return the answers to texts without padding, [rows, tokens]; those of a decoder alone."""
    both = model.config.is_encoder_decoder
    start = [config.decoder_start_token_id] if both else []
    forced = [config.forced_bos_token_id] if config.forced_bos_token_id is not None else []
    found = texts.new_tensor([start + forced]).long().expand(len(texts), -1)
    ended = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
    for _ in range(config.max_new_tokens - len(forced)):
        sequence = texts if both else torch.cat([texts, found], dim=1)
        more = {"decoder_input_ids": found} if both else {}
        seen = torch.ones_like(sequence)
        logits = model(input_ids=sequence, attention_mask=seen, use_cache=False, **more).logits
        token = logits[:, -1].argmax(-1).masked_fill(ended, config.pad_token_id)
        found = torch.cat([found, token[:, None]], dim=1)
        ended = ended | (token == config.eos_token_id)
        if bool(ended.all()):
            break
    return found
