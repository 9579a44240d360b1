"""Load a VT5 from a checkpoint of its own, or from those of a T5 and a BEiT or DiT."""

import re
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import BeitConfig, BeitModel, PreTrainedConfig, PreTrainedTokenizerFast

from fl_app.config import plain
from fl_app.models.draws import SeededDraws
from fl_app.models.limits import check_vocabulary
from fl_app.models.sources import (
    Sources,
    check_complete,
    check_known,
    check_own_config,
    clear_errors,
    load_tokenizer,
    locate,
    quiet,
)
from fl_app.models.vt5 import VISUAL_KEYS, VT5Config, VT5ForConditionalGeneration

# Weights that a plain T5 lacks; all others must be in a checkpoint.
DRAWN = re.compile(r"(spatial|visual_matcher|visual_encoder|quecc)\..*|lm_head\.weight")


def load_vt5(
    cfg_model: DictConfig, seed: int
) -> tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Load the pretrained VT5 and its tokenizer.

    Weights that the checkpoint lacks (a plain T5 has no spatial embedding) are drawn from ``seed``,
    with the same bits on every machine; torch's global generator is not changed. An untied
    ``lm_head`` that it lacks starts as the token embedding.

    Parameters
    ----------
    cfg_model : DictConfig
        As for ``fl_app.models.load``, without ``dtype`` and ``quantization``; and ``visual_path``:
        folder or hub id of the BEiT or DiT that is the visual encoder; None: that of ``path``, if
        it has one.
    seed : int
        The run's seed.

    Returns
    -------
    (VT5ForConditionalGeneration, PreTrainedTokenizerFast)
        The model is in float32, on the CPU, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If a folder or hub id does not exist or cannot be reached.
    ValueError
        If the weights do not have the digest ``sha256``, belong to another architecture or have
        other shapes, or a config key is unknown.
    """
    sources = find_vt5(cfg_model)
    with quiet(), torch.random.fork_rng(devices=[]), SeededDraws(seed):
        torch.manual_seed(seed)
        config = _config(cfg_model, sources)
        model = _model(cfg_model, sources, config)
        if sources.visual is not None:
            _load_visual(model, sources.visual)
    tokenizer = load_tokenizer(cfg_model, sources)
    check_vocabulary(cfg_model, tokenizer, model)
    return model, tokenizer


def find_vt5(cfg_model: DictConfig) -> Sources:
    """Find the files of a VT5; the hub is not contacted.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    ValueError
        If the weights do not have the digest ``sha256``, or a key or value of ``config`` is
        unknown.
    """
    _override(VT5Config(), plain(cfg_model.config))
    return locate(cfg_model)


def _config(cfg_model: DictConfig, sources: Sources) -> VT5Config:
    config = VT5Config()
    if sources.weights is not None:
        check_own_config("path", sources.weights)
        with clear_errors("path", cfg_model.path):
            config = VT5Config.from_pretrained(sources.weights)
    config = _override(config, plain(cfg_model.config))
    if sources.visual is not None:
        check_own_config("visual_path", sources.visual)
    if sources.visual is not None and config.visual is None:
        with clear_errors("visual_path", sources.visual):
            found, _ = PreTrainedConfig.get_config_dict(sources.visual)
            if found.get("model_type") != BeitConfig.model_type:
                raise ValueError(
                    f"model.visual_path={sources.visual!r} is a {found.get('model_type')}, but the "
                    "visual encoder must be a BEiT, such as DiT: choose another checkpoint"
                )
            visual = BeitConfig.from_pretrained(sources.visual).to_dict()
        config = _override(config, {"visual": {key: visual[key] for key in sorted(VISUAL_KEYS)}})
    return config


def _override(config: VT5Config, overrides: dict[str, Any]) -> VT5Config:
    """Return a new config with ``overrides``; the constructor checks all values."""
    values = config.to_dict()
    check_known(overrides, {*values})
    return VT5Config(**(values | overrides))


def _model(
    cfg_model: DictConfig, sources: Sources, config: VT5Config
) -> VT5ForConditionalGeneration:
    # "random" is an empty checkpoint, whose missing weights are drawn.
    checkpoint: dict[str, Any] = {"state_dict": {}} if sources.weights is None else {}
    with clear_errors("path", cfg_model.path):
        loaded: Any = VT5ForConditionalGeneration.from_pretrained(
            sources.weights,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **checkpoint,
        )
    model, report = loaded
    if sources.weights is not None:
        missing = [name for name in report["missing_keys"] if not DRAWN.match(name)]
        check_complete("path", cfg_model.path, missing)
    return model


def _load_visual(model: VT5ForConditionalGeneration, source: str) -> None:
    """Load the visual encoder; a classifier or pooler of the checkpoint is not used."""
    with clear_errors("visual_path", source):
        loaded: Any = BeitModel.from_pretrained(
            source,
            config=model.visual_encoder.config,
            add_pooling_layer=False,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    visual, report = loaded
    check_complete("visual_path", source, report["missing_keys"])
    model.visual_encoder.load_state_dict(visual.state_dict())
