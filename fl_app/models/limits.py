"""What a model can take: its positions, the tokens it has rows for; and which way it looks."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# Of what the last token changes at its own place: more than rounding.
LOOKS_AHEAD = {torch.float32: 1e-4, torch.bfloat16: 0.02}


def check_direction(cfg_model: DictConfig, task: DictConfig, config: PreTrainedConfig) -> None:
    """Refuse an encoder as a decoder, and an encoder-decoder as either, by what the config says.

    Raises
    ------
    ValueError
        The model is of another kind than ``task.id`` needs.
    """
    both = bool(config.is_encoder_decoder)
    if task.get("format") == "text" and both:
        raise ValueError(
            f"task=text does not fit model.path={cfg_model.path!r}, an encoder-decoder "
            f"({config.model_type}): plain text is continued by a decoder, choose one"
        )
    if task.id == "causal_lm" and both:
        raise ValueError(
            f"task.id=causal_lm does not fit model.path={cfg_model.path!r}, an encoder-decoder "
            f"({config.model_type}): set task=seq2seq, or choose a decoder"
        )
    if task.id == "seq2seq" and not both:
        raise ValueError(
            f"task.id=seq2seq does not fit model.path={cfg_model.path!r}, which has no encoder and "
            f"decoder ({config.model_type}): set task=causal_lm, or choose an encoder-decoder"
        )
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    causal = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if task.id == "causal_lm" and masked and not causal:
        raise ValueError(_encoder(cfg_model.path, config.model_type))


def check_causal(model: Any, path: str) -> None:
    """Refuse a model whose output at a token depends on later ones: it would see its answers.

    Parameters
    ----------
    model : Module
        A language model, perhaps with an adapter; it is run on two rows of four tokens.
    path : str
        The value of model.path, for messages.

    Raises
    ------
    ValueError
        The last token changes an earlier output.
    """
    embedding = model.get_input_embeddings()
    size = len(embedding.weight)  # an adapter around it has no other
    ids = torch.tensor([[size // 2] * 3 + [last] for last in (size // 3, size // 4)])
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids.to(embedding.weight.device), use_cache=False).logits.float()
    model.train(was_training)
    change = (logits[0] - logits[1]).abs().amax(dim=-1)  # [tokens]
    if float(change[:-1].max()) > LOOKS_AHEAD[model.dtype] * float(change[-1]):
        raise ValueError(_encoder(path, model.config.model_type))


def _encoder(path: str, kind: str) -> str:
    return (
        f"task.id=causal_lm does not fit model.path={path!r}, an encoder ({kind}): each of its "
        "tokens sees the later ones, and so the answer that it should learn. Choose a decoder, or "
        "task=sequence_classification; a checkpoint that was trained as a decoder needs "
        "+model.config.is_decoder=true"
    )


def check_positions(cfg_model: DictConfig, task: DictConfig, config: PreTrainedConfig) -> None:
    """Refuse texts that are longer than the positions which the config says.

    Raises
    ------
    ValueError
        Names the options to lower.
    """
    text = config.get_text_config()
    if getattr(text, "rope_parameters", None) is None:  # rotary positions have no table
        _check_length(cfg_model, task, getattr(text, "max_position_embeddings", None))


def check_tables(cfg_model: DictConfig, task: DictConfig, model: nn.Module, taken: int = 0) -> None:
    """Refuse texts that are longer than a table of positions has rows for a text.

    Some tables keep rows for padding, such as RoBERTa's: 512 of 514 are for a text. Virtual tokens
    before a text have ``taken`` others.

    Raises
    ------
    ValueError
        Names the options to lower.
    """
    for name, table in model.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(table, nn.Embedding) and leaf in ("position_embeddings", "wpe"):
            kept = 0 if table.padding_idx is None else table.padding_idx + 1
            _check_length(cfg_model, task, table.num_embeddings - kept - taken)


def _check_length(cfg_model: DictConfig, task: DictConfig, positions: int | None) -> None:
    if positions is None or positions <= 0:  # relative positions, or any number of them
        return
    asked = {"model.max_length": int(cfg_model.max_length)}
    answers = task.id == "causal_lm" and task.get("format") != "text"
    if answers:  # behind the input
        asked["model.max_answer_length"] = int(cfg_model.max_answer_length)
    longest = sum(asked.values())
    if task.id == "seq2seq":
        longest = max(longest, int(cfg_model.max_answer_length))
        asked["model.max_answer_length"] = int(cfg_model.max_answer_length)
    if longest > positions:
        options = (" + " if answers else " and ").join(
            f"{key}={value}" for key, value in asked.items()
        )
        raise ValueError(
            f"model.path={cfg_model.path!r} has {positions} positions, but {options} may need "
            f"{longest}: lower {' or '.join(asked)}"
        )


def check_vocabulary(
    cfg_model: DictConfig, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel
) -> None:
    """Refuse a tokenizer with tokens that the model has no row for.

    Special tokens that nothing but a template can write may be more: they are checked there.

    Raises
    ------
    ValueError
        Names the tokenizer and both sizes.
    """
    embedding: Any = model.get_input_embeddings()
    rows = len(embedding.weight)
    if len(tokenizer) <= rows:
        return
    special = {index for index, one in tokenizer.added_tokens_decoder.items() if one.special}
    used = {*tokenizer("")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id}
    above = {index for index in tokenizer.get_vocab().values() if index >= rows}
    if above - special or above & used:
        key = "tokenizer" if cfg_model.tokenizer else "path"
        raise ValueError(
            f"model.{key}={cfg_model[key]!r}: the tokenizer has {len(tokenizer)} tokens, but the "
            f"model has a vocabulary of {rows}: choose the model's own tokenizer"
        )
