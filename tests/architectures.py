"""Random models of a few thousand weights that adapters are attached to, and batches for them."""

from functools import lru_cache
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from fl_app import models
from fl_app.config import compose
from fl_app.data import load
from fl_app.data.collate import Collator
from tests import small

VOCABULARY = 96
LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1,
}  # fmt: skip
T5 = {
    "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
BERT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_labels": 3, "initializer_range": 0.1,
}  # fmt: skip
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "t5": (T5ForConditionalGeneration, T5Config, T5),
    "bert": (BertForSequenceClassification, BertConfig, BERT),
}
MODELS = (*KINDS, "vt5")
ADAPTERS: dict[str, dict] = {
    "llama": {},
    "t5": {},
    "bert": {"target_modules": ["query", "value", "dense"], "modules_to_save": ["classifier"]},
    "vt5": {},
}
"""What the ``adapter`` group says for each, where it is not the default."""


def model(name: str, **config) -> PreTrainedModel:
    """The same weights at every call, in evaluation mode; vt5 is the embedded model."""
    if name == "vt5":
        return models.load_vt5(compose(small.DATA).model, 0)[0]
    built, configured, sizes = KINDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return built(configured(**({"vocab_size": VOCABULARY} | sizes | config))).eval()


def quantized(folder: Path, bits: int) -> PreTrainedModel:
    """The causal model saved in ``folder``, with a base in 4 (NF4) or 8 bits."""
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.float32
    )


def batch(name: str, rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of the model's forward pass, with labels."""
    if name == "vt5":
        return dict(_vt5_batch(rows, seed))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, 9), generator=generator)
    if name == "bert":
        return {"input_ids": ids, "labels": torch.arange(rows) % 3}
    return {"input_ids": ids, "labels": ids if name == "llama" else ids[:, :4].contiguous()}


@lru_cache
def _vt5_batch(rows: int, seed: int) -> dict[str, torch.Tensor]:
    cfg = compose(small.DATA)
    base, tokenizer = models.load_vt5(cfg.model, 0)
    documents = load(cfg.data, 0)["train"].to_list()
    collator = Collator(tokenizer, base.config, cfg.model.max_length)
    return collator.training(documents[seed : seed + rows])


def normal(out: int, n_in: int, seed: int = 0) -> torch.Tensor:
    """A matrix of normal values, [out, in]."""
    return torch.randn(out, n_in, generator=torch.Generator().manual_seed(seed))
