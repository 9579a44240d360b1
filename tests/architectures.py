"""Random models with a few thousand weights, matching tokenizers, and batches for them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fl_app import models
from fl_app.config import compose
from fl_app.data import load
from fl_app.tasks.documents import Collator
from tests import small

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, START, END, UNKNOWN = range(4)
VOCABULARY = 260  # the special tokens and one for each byte

_SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD,
}  # fmt: skip
_DECODER = _SIZE | {"intermediate_size": 128, "num_key_value_heads": 2, "initializer_range": 0.1}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (AutoModelForCausalLM, _DECODER),
    "mistral": (AutoModelForCausalLM, _DECODER | {"sliding_window": 24}),
    "gemma2": (
        AutoModelForCausalLM,
        _DECODER
        | {"sliding_window": 24, "head_dim": 16, "query_pre_attn_scalar": 16}
        | {"initializer_range": 0.02},  # with a larger one, its tied embedding repeats the input
    ),
    "opt": (
        AutoModelForCausalLM,
        _SIZE
        | {"word_embed_proj_dim": 64, "ffn_dim": 128, "max_position_embeddings": 256}
        | {"init_std": 0.1},
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        {
            "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1,
            "num_heads": 4, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD,
        },
    ),
    "bert": (
        AutoModelForSequenceClassification,
        _SIZE | {"intermediate_size": 128, "num_labels": 3, "initializer_range": 0.1},
    ),
}  # fmt: skip
DECODERS = tuple(name for name, (auto, _) in KINDS.items() if auto is AutoModelForCausalLM)
MODELS = ("llama", "t5", "bert", "vt5")
ADAPTERS: dict[str, dict] = {
    "llama": {},
    "t5": {},
    "bert": {"target_modules": ["query", "value", "dense"]},
    "vt5": {},
}
"""Options of the ``adapter`` group for each model that differ from the defaults."""


def config(name: str, **changes: Any) -> PreTrainedConfig:
    """Return the config of a kind of ``KINDS``, with changes."""
    return CONFIG_MAPPING[name](**(KINDS[name][1] | changes))


def model(name: str, spread: float = 1.0, **changes: Any) -> PreTrainedModel:
    """Return a model in evaluation mode, with the same weights at every call.

    Parameters
    ----------
    name : str
        A kind of ``KINDS``, or "vt5" for the embedded model.
    spread : float
        Factor of the matrices; with a larger one, predictions differ more.
    changes
        Changes of the config.
    """
    if name == "vt5":
        return models.load_vt5(compose(small.DATA).model, 0)[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = KINDS[name][0].from_config(config(name, **changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return made


def tokenizer(template: str, pad: bool = True, start: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: a token for each byte.

    Parameters
    ----------
    template : str
        The special tokens around a text: "<s> $A" as in Llama, "$A </s>" as in T5.
    pad, start : bool
        Whether it has a padding token and a start token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(BPE(vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=template,
        pair=f"{template} </s> $B </s>",
        special_tokens=[("<s>", START), ("</s>", END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>" if pad else None,
        bos_token="<s>" if start else None,
        eos_token="</s>",
        unk_token="<unk>",
    )


def quantized(folder: Path, bits: int) -> PreTrainedModel:
    """Load the causal model saved in ``folder``, with its base in 4 (NF4) or 8 bits."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, device_map="cpu", dtype=torch.float32
    )


def batch(name: str, rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return arguments of the model's forward pass, with labels."""
    if name == "vt5":
        return dict(_vt5_batch(rows, seed))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIAL), VOCABULARY, (rows, 9), generator=generator)
    if name == "bert":
        return {"input_ids": ids, "labels": torch.arange(rows) % 3}
    return {"input_ids": ids, "labels": ids[:, :4].contiguous() if name == "t5" else ids}


@lru_cache
def _vt5_batch(rows: int, seed: int) -> dict[str, torch.Tensor]:
    cfg = compose(small.DATA)
    base, pieces = models.load_vt5(cfg.model, 0)
    documents = load(cfg.data, 0)["train"].to_list()
    collator = Collator(pieces, base.config, cfg.model.max_length)
    return collator.training(documents[seed : seed + rows])


def normal(out: int, n_in: int, seed: int = 0) -> torch.Tensor:
    """Return a matrix of normal values, [out, in]."""
    return torch.randn(out, n_in, generator=torch.Generator().manual_seed(seed))
