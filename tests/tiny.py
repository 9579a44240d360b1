"""Tiny models of known architectures with random weights, and tokenizers of their kinds."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, START, END, UNKNOWN = range(4)


def tokenizer(template: str, pad: bool = True, start: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: 260 tokens, a byte each.

    ``template`` is what it puts around a text: "<s> $A" as Llama, "$A </s>" as T5.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
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


_SIZE = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER = _SIZE | {
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": PAD,
}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**_DECODER))


def mistral() -> MistralForCausalLM:
    return MistralForCausalLM(MistralConfig(**_DECODER, sliding_window=24))


def gemma2() -> Gemma2ForCausalLM:
    return Gemma2ForCausalLM(Gemma2Config(**_DECODER, query_pre_attn_scalar=8, sliding_window=24))


def opt() -> OPTForCausalLM:
    return OPTForCausalLM(
        OPTConfig(
            **_SIZE,
            word_embed_proj_dim=32,
            ffn_dim=48,
            max_position_embeddings=256,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    )


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=260,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=PAD,
        )
    )


def bert(labels: int) -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(**_SIZE, intermediate_size=48, num_labels=labels, pad_token_id=PAD)
    )


DECODERS = {"llama": llama, "mistral": mistral, "gemma2": gemma2, "opt": opt}


def seeded(make, seed: int = 0, spread: float = 8.0) -> PreTrainedModel:
    """A model whose predictions differ: its weights are ``spread`` times wider than usual."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return model
