"""Which of PEFT's methods can be federated, over which models, and which arguments are plain data.

The tables say what PEFT 0.21.2 does; ``tests/adapters/test_peft_methods.py`` tries every cell.
"""

from collections.abc import Mapping

# What a client's turn cannot give a method, or what Thinwire does not have.
REFUSED: Mapping[str, str] = {
    "ADALORA": "its ranks change by a call after each step of one long training, which a client's "
    "turns are not",
    "ADAMSS": "it needs the package scikit-learn, which is not installed with Thinwire",
    "CPT": "it trains the tokens of one given context, with a loss of its own on them",
    "MULTITASK_PROMPT_TUNING": "it needs the number of a task with every row",
    "POLY": "it needs the number of a task with every row",
    "SHADOW": "its layers fail in the forward pass of these models",
    "XLORA": "it mixes adapters that it reads from files",
}

# PEFT has these for ``nn.Linear``, not for transformers' ``Conv1D``, which GPT-2 is made of.
NO_CONV1D = frozenset(
    {
        "BEFT", "BOFT", "C3A", "DELORA", "GLORA", "HRA", "LILY", "LOHA", "LOKR", "MISS", "OFT",
        "OSF", "PEANUT", "PSOFT", "ROAD", "SHIRA", "SUPERTUNING",
    }
)  # fmt: skip

# These train keys and values of attention, which PEFT gives to models that generate.
CACHED = frozenset({"CARTRIDGE", "PREFIX_TUNING"})

# The one whose virtual tokens may stand before a page's words, which have boxes: VT5 gives it none.
PAGE_PROMPTS = "PROMPT_TUNING"

# Of an encoder-decoder these put virtual tokens before the encoder's text alone, and PEFT makes
# others for the decoder by default, which it never reads.
ENCODER_ONLY = frozenset({"PROMPT_TUNING", "P_TUNING"})

# Nothing can be merged into the weights; of BEFT where a layer has no bias.
NOT_MERGED = frozenset({"ADAPTION_PROMPT", "LILY"})

# Whose start changes what the model computes: the scores of round 0 are not the base model's.
CHANGED_START = frozenset({"C3A", "FOURIERFT", "UNILORA", "VBLORA"})

# PEFT has layers of these over bases in 4 and 8 bits, or they change no layer.
QUANTIZED = frozenset(
    {
        "BOFT", "CARTRIDGE", "HIRA", "IA3", "LORA", "MISS", "OFT", "PREFIX_TUNING",
        "PROMPT_TUNING", "PVERA", "P_TUNING", "RANDLORA", "ROAD", "VERA",
    }
)  # fmt: skip

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "ADAPTION_PROMPT": ("adapter_len", "adapter_layers"),
    "CARTRIDGE": ("num_virtual_tokens",),
    "PREFIX_TUNING": ("num_virtual_tokens",),
    "PROMPT_TUNING": ("num_virtual_tokens",),
    "P_TUNING": ("num_virtual_tokens",),
    "TRAINABLE_TOKENS": ("token_indices",),
}

# Names that people know, of what are options of another method.
VARIANTS: Mapping[str, str] = {
    "DORA": "adapter.method=LORA adapter.args.use_dora=true",
    "RSLORA": "adapter.method=LORA adapter.args.use_rslora=true",
    "BITFIT": "adapter.method=LORA adapter.args.bias=all, which trains biases beside a LoRA",
}

# Arguments of more than numbers, switches and lists of numbers that have been read in PEFT: names
# and patterns of modules, names out of tables in PEFT, and numbers by these. A text that is not
# named here may be a path, an id of the hub, or a module to import (``megatron_core``).
DATA = frozenset(
    {
        "target_modules", "exclude_modules", "modules_to_save", "layers_pattern",
        "feedforward_modules", "bias", "rank_pattern", "alpha_pattern", "block_size_pattern",
        "lambda_pattern", "n_frequency_pattern", "target_svd_config", "trainable_token_indices",
        "encoder_reparameterization_type", "prompt_tuning_init", "act_fn", "variant",
        "wavelet_family", "init_weights",
    }
)  # fmt: skip

# Values that are allowed of an argument that also takes others, and why not the others.
VALUES: Mapping[str, tuple[tuple[object, ...], str]] = {
    "init_lora_weights": (
        (True, False, "gaussian", "orthogonal", "mica"),
        "other starts change the base's weights, or need data or another model",
    ),
    "prompt_tuning_init": (
        ("RANDOM", "SAMPLE_VOCAB"),
        "other starts read a tokenizer or a file",
    ),
    "sample_at_inference": ((False,), "scores would be random"),
    "use_qalora": ((False,), "it is for bases in GPTQ"),
    "runtime_offload_base_weight": ((False,), "the model is moved by federation.device"),
    "alora_invocation_tokens": ((None,), "every row would need these tokens"),
}
