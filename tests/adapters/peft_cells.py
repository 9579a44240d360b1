"""Methods of PEFT with arguments for tiny models, and such models: two layers, 32 wide."""

import random
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from fl_app.adapters.peft_methods import adapter, declared, support

WORDS = 64
_DECODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2} | {
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (
        AutoModelForCausalLM,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "llama": (AutoModelForCausalLM, _DECODER),
    "qwen2": (AutoModelForCausalLM, _DECODER),
    "bert": (
        AutoModelForSequenceClassification,
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_labels": 3}
        | {"num_attention_heads": 4, "max_position_embeddings": 64},
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
    ),
}

VIRTUAL = {"num_virtual_tokens": 4}
SIZES: dict[str, dict[str, Any]] = {
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 16},
    "CARTRIDGE": VIRTUAL,
    "FOURIERFT": {"n_frequency": 50},
    "GRALORA": {"r": 4, "alpha": 8},
    "HIRA": {"r": 4},
    "LILY": {"r": 4},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "OSF": {"effective_rank": 4},
    "PEANUT": {"r": 4},
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "PSOFT": {"r": 4},
    "PVERA": {"r": 8},
    "P_TUNING": VIRTUAL | {"encoder_hidden_size": 16},
    "RANDLORA": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7]},
    "VBLORA": {"num_vectors": 16, "vector_length": 8},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 50},
}
# Options of a method that are methods of their own to those who use them, and uncommon ones.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("LORA", {"use_dora": True}),
    "rsLoRA": ("LORA", {"use_rslora": True}),
    "ranks": ("LORA", {"rank_pattern": {"q_proj": 4, "query": 4, "q": 4, "c_attn": 4}}),
    "tokens": ("LORA", {"trainable_token_indices": [5, 6]}),
    "biases": ("LORA", {"bias": "all"}),
    "orthogonal": ("LORA", {"init_lora_weights": "orthogonal"}),
    "mica": ("LORA", {"init_lora_weights": "mica"}),
    "one layer": ("LORA", {"layers_to_transform": [0]}),
    "IA3 of all": ("IA3", {"target_modules": "all-linear"}),
    "LyCORIS": (
        "LOKR",
        {"init_weights": "lycoris", "decompose_factor": 4, "decompose_both": True},
    ),
    "prefix by a network": (
        "PREFIX_TUNING",
        VIRTUAL | {"prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "P-tuning by an LSTM": (
        "P_TUNING",
        VIRTUAL | {"encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"},
    ),
    "tokens of the vocabulary": (
        "PROMPT_TUNING",
        VIRTUAL | {"prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
}
NAMES = [*sorted({*declared.methods()} - {*support.REFUSED}), *VARIANTS]

# What each kind of model refuses, beside the methods that are not for its layers.
REFUSES: dict[str, set[str]] = {
    "gpt2": {*support.NO_CONV1D, "LyCORIS"},
    "llama": set(),
    "qwen2": {"ADAPTION_PROMPT"},
    "bert": {"ADAPTION_PROMPT", "LN_TUNING", "TRAINABLE_TOKENS", "prefix by a network"}
    | {*support.CACHED},
    "t5": {"ADAPTION_PROMPT"},
}


def method_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return a method and its arguments, by its name or that of a variant."""
    return VARIANTS.get(name) or (name, SIZES.get(name, {}))


def model(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model in evaluation mode, with the same weights at every call."""
    auto, sizes = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = auto.from_config(CONFIG_MAPPING[kind](vocab_size=WORDS, **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that predictions differ
    return made.to(dtype).eval()


def batch(kind: str) -> dict[str, torch.Tensor]:
    """Return arguments of the forward pass, with labels."""
    ids = torch.randint(4, WORDS, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = {"bert": torch.arange(3), "t5": ids[:, :4].contiguous()}.get(kind, ids)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def attached(name: str, kind: str, seed: int = 5, noise: int = 0, **changes: Any) -> PeftModel:
    """Return a model with a method, in a process that has drawn ``noise`` before."""
    method, arguments = method_of(name)
    base = model(kind, **changes)
    torch.manual_seed(noise)
    np.random.seed(noise)
    random.seed(noise)
    cfg = OmegaConf.create({"method": method, "args": arguments})
    return adapter.attach(base, cfg, seed)


def logits(of: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits in evaluation mode; those of the text, where virtual tokens have some."""
    of.eval()
    with torch.no_grad():
        found = of(**given).logits
    return found if found.dim() == 2 else found[:, -given["labels"].shape[1] :]
