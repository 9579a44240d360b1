"""Load any model of transformers, with the head that a task needs."""

import logging
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from omegaconf import DictConfig
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fl_app.config import plain
from fl_app.models.draws import SeededDraws
from fl_app.models.generation import replacement
from fl_app.models.head import POOLER, classification_head, is_classifier, named_outputs
from fl_app.models.limits import (
    check_direction,
    check_positions,
    check_tables,
    check_vocabulary,
)
from fl_app.models.sources import (
    RANDOM,
    Sources,
    check_complete,
    check_known,
    check_own_config,
    clear_errors,
    load_tokenizer,
    locate,
    no_custom_code,
    quiet,
)

logger = logging.getLogger("thinwire")

AUTO: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "sequence_classification": AutoModelForSequenceClassification,
}

# Keys of a model's config that the task, other options or the architecture itself decide.
DECIDED_ELSEWHERE = {
    *("_name_or_path", "architectures", "dtype", "id2label", "is_encoder_decoder", "label2id"),
    *("model_type", "problem_type", "quantization_config", "transformers_version"),
}


def load_auto(
    cfg_model: DictConfig, seed: int, task: DictConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model and its tokenizer; see ``fl_app.models.load``."""
    sources = find_auto(cfg_model, task)
    with quiet(), torch.random.fork_rng(devices=[]), SeededDraws(seed):
        torch.manual_seed(seed)
        config = _config(cfg_model, sources, task)
        said = {int(index): name for index, name in (config.id2label or {}).items()}
        _name_outputs(cfg_model, sources, config, task)
        if sources.weights is None:
            model = AUTO[task.id].from_config(
                config, dtype=getattr(torch, cfg_model.dtype), trust_remote_code=False
            )
        else:
            model = _pretrained(cfg_model, sources.weights, config, task, said, seed)
    tokenizer = load_tokenizer(cfg_model, sources)
    check_vocabulary(cfg_model, tokenizer, model)
    check_tables(cfg_model, task, model)
    if not config.is_encoder_decoder:
        _set_padding(model, tokenizer)
    return model.eval(), tokenizer


def find_auto(cfg_model: DictConfig, task: DictConfig) -> Sources:
    """Find the model's files, and check that its architecture has the task's head.

    The hub is not contacted: the config of a model there is not checked.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If the weights do not have the digest ``sha256``, the architecture does not fit the task, a
        key or value of ``config`` is unknown, or drawn weights are to be quantized.
    """
    sources = locate(cfg_model)
    if sources.weights is None and cfg_model.quantization != "none":
        raise ValueError(
            f"model.quantization={cfg_model.quantization} is for weights of a checkpoint: set it "
            f"to none with model.path={RANDOM}"
        )
    if sources.weights is None or sources.local:
        config = _config(cfg_model, sources, task)
        _name_outputs(cfg_model, sources, config, task)
    return sources


def outline(cfg_model: DictConfig, task: DictConfig) -> PreTrainedModel | None:
    """Return the model's modules without weights; None where only the hub has its config.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_auto` does.
    """
    sources = locate(cfg_model)
    if sources.weights is not None and not sources.local:
        return None
    config = _config(cfg_model, sources, task)
    with torch.device("meta"):
        return AUTO[task.id].from_config(config, trust_remote_code=False)


def _config(cfg_model: DictConfig, sources: Sources, task: DictConfig) -> PreTrainedConfig:
    overrides = plain(cfg_model.config)
    try:
        if sources.weights is None:
            config = _architecture(overrides)
        else:
            check_own_config("path", sources.weights)
            with clear_errors("path", cfg_model.path), no_custom_code("path", cfg_model.path):
                config = AutoConfig.from_pretrained(sources.weights, trust_remote_code=False)
            check_known(overrides, {*config.to_dict()} - DECIDED_ELSEWHERE)
            for key, value in overrides.items():
                setattr(config, key, value)
            config.validate()
    except StrictDataclassError as error:
        raise ValueError(f"model.config: {error}") from None
    if type(config) not in AUTO[task.id]._model_mapping:
        raise ValueError(
            f"task.id={task.id} does not fit model.path={cfg_model.path!r}: transformers has no "
            f"{config.model_type} for it; choose another model or task"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"model.path={cfg_model.path!r} is a quantized checkpoint: choose the checkpoint in "
            "full precision, and set model.quantization"
        )
    check_direction(cfg_model, task, config)
    check_positions(cfg_model, task, config)
    return config


def _name_outputs(
    cfg_model: DictConfig, sources: Sources, config: PreTrainedConfig, task: DictConfig
) -> None:
    """Give the outputs of a classifier the names of the task's labels.

    A trained head keeps the order of its own names.
    """
    if task.id != "sequence_classification":
        return
    # transformers' own name for an output that is a number
    names = dict(enumerate(map(str, task.labels))) or {0: "LABEL_0"}
    trained = sources.weights is not None and cfg_model.head == "pretrained"
    if trained and is_classifier(config.architectures):
        said = {int(index): name for index, name in (config.id2label or {}).items()}
        names = named_outputs(cfg_model.path, said, list(map(str, task.labels)))
    config.id2label = names
    config.label2id = {label: index for index, label in names.items()}
    config.problem_type = task.get("problem_type", "single_label_classification")


def _architecture(overrides: dict[str, Any]) -> PreTrainedConfig:
    """Return the config of a model whose weights are drawn.

    It is built with all overrides at once, so that sizes which depend on others follow them.
    """
    sizes = dict(overrides)
    name = sizes.pop("model_type", None)
    if name not in CONFIG_MAPPING:
        raise ValueError(
            f"model.path={RANDOM} needs an architecture: model.config.model_type={name} should be "
            "one that transformers has, such as llama, mistral, gemma2, opt, bert or t5"
        )
    check_known(sizes, {*CONFIG_MAPPING[name]().to_dict()} - DECIDED_ELSEWHERE)
    return CONFIG_MAPPING[name](**sizes)


def _pretrained(
    cfg_model: DictConfig,
    source: str,
    config: PreTrainedConfig,
    task: DictConfig,
    said: dict[int, str],
    seed: int,
) -> PreTrainedModel:
    options: dict[str, Any] = {"config": config, "dtype": getattr(torch, cfg_model.dtype)}
    if cfg_model.quantization != "none":
        options |= {
            "quantization_config": _quantization(cfg_model, config, task),
            "device_map": "cpu",  # all nodes round alike there; a model moves to its GPU later
        }
    new = task.id == "sequence_classification" and cfg_model.head == "random"
    if new:
        options["ignore_mismatched_sizes"] = True
    elif (generation := replacement(source)) is not None:
        options["generation_config"] = generation
    with clear_errors("path", cfg_model.path):
        model, report = AUTO[task.id].from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    missing = {*report["missing_keys"]}
    heads = tuple(f"{name}." for name in classification_head(model))
    others = [key for key, *_ in report["mismatched_keys"] if not key.startswith(heads)]
    if others:
        raise ValueError(
            f"model.path={cfg_model.path!r} has weights of other shapes than model.config: "
            f"{', '.join(sorted(others)[:3])}"
        )
    loaded = heads and not any(name.startswith(heads) for name in missing)
    if new:
        _draw_head(model, seed)
    elif loaded and not is_classifier(config.architectures):  # a head of tokens may be called so
        named_outputs(cfg_model.path, said, list(map(str, task.labels)))
    if heads:
        model.drawn_poolers = _drawn_poolers(cfg_model, model, missing)
        heads = tuple(f"{name}." for name in classification_head(model))
    rest = [name for name in missing if not name.startswith(heads)]
    check_complete("path", cfg_model.path, rest)
    return cast(PreTrainedModel, model)


def _draw_head(model: PreTrainedModel, seed: int) -> None:
    """Draw the head of a classifier anew: the same as above a checkpoint without one."""
    with torch.no_grad(), SeededDraws(seed):
        for name in classification_head(model):
            for module in model.get_submodule(name).modules():
                for tensor in module.parameters(recurse=False):
                    tensor._is_hf_initialized = False  # type: ignore[attr-defined]
                model._init_weights(module)


def _drawn_poolers(cfg_model: DictConfig, model: PreTrainedModel, missing: set[str]) -> list[str]:
    """Return the poolers that a checkpoint lacks, as a masked LM does: they are drawn and trained.

    Raises
    ------
    ValueError
        Drawn weights would be quantized.
    """
    found = sorted({match[1] for name in missing if (match := POOLER.fullmatch(name))})
    if found and cfg_model.quantization != "none":
        raise ValueError(
            f"model.path={cfg_model.path!r} lacks {', '.join(found)}, and weights that are drawn "
            f"cannot be quantized: set model.quantization=none"
        )
    if found:
        logger.warning(
            "model.path=%s lacks %s: drawn from the seed, trained and sent with the head",
            cfg_model.path,
            ", ".join(found),
        )
    return found


def _head(config: PreTrainedConfig, task: DictConfig) -> list[str]:
    with torch.device("meta"):
        return classification_head(AUTO[task.id].from_config(config, trust_remote_code=False))


def _quantization(
    cfg_model: DictConfig, config: PreTrainedConfig, task: DictConfig
) -> BitsAndBytesConfig:
    """Return the options of NF4 (without double quantization) or LLM.int8().

    A head is trained, so that it is not quantized.
    """
    return BitsAndBytesConfig(
        load_in_4bit=cfg_model.quantization == "4bit",
        load_in_8bit=cfg_model.quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=getattr(torch, cfg_model.dtype),
        llm_int8_skip_modules=_head(config, task) or None,  # None: the language model's head
    )


def _set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Pad with the (masked) end token if the tokenizer has no padding token.

    Model and tokenizer must agree: a decoder's classifier reads the last token that is not padding.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # After the model was made: the embedding of a config's padding token is never trained.
    model.config.pad_token_id = tokenizer.pad_token_id
