"""VT5 from a checkpoint of its own, or from those of a T5 and a BEiT or DiT."""

import re
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import BeitConfig, BeitModel, PreTrainedConfig, PreTrainedTokenizerFast

from fl_app.config import plain
from fl_app.models.draws import SeededDraws
from fl_app.models.sources import (
    Sources,
    check_own_config,
    load_tokenizer,
    locate,
    override_known,
    quiet,
    readable,
    refuse,
)
from fl_app.models.vt5 import VISUAL_KEYS, VT5Config, VT5ForConditionalGeneration

# What a plain T5 has not; everything else must be in a checkpoint.
DRAWN = re.compile(r"(spatial|visual_matcher|visual_encoder)\..*|lm_head\.weight")


def load_vt5(
    cfg_model: DictConfig, seed: int
) -> tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """The pretrained VT5 (fp32, on the CPU, in evaluation mode) and its tokenizer.

    Weights that the checkpoint lacks (a plain T5 has no spatial embedding) are drawn from
    ``seed``, the same on every machine; torch's global generator is left as it was. An untied
    ``lm_head`` that it lacks starts as the token embedding.

    Args:
        cfg_model: as of ``fl_app.models.load``, without quantization, and ``visual_path`` (folder
            or hub id of the BEiT or DiT that is the visual encoder; None: the visual encoder of
            ``path``, if any).

    Raises:
        FileNotFoundError: no such folder or hub id, or it cannot be reached.
        ValueError: the weights are not those that ``sha256`` names, are those of another
            architecture or of other shapes, or a config key is unknown.
    """
    sources = find_vt5(cfg_model)
    with quiet(), torch.random.fork_rng(devices=[]), SeededDraws(seed):
        torch.manual_seed(seed)
        config = _config(cfg_model, sources)
        model = _model(cfg_model, sources, config)
        if sources.visual is not None:
            _load_visual(model, sources.visual)
    return model, load_tokenizer(cfg_model, sources, config.vocab_size)


def find_vt5(cfg_model: DictConfig) -> Sources:
    """Where its parts are; whether a hub id can be had is not asked here.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the options are not a VT5's, the weights are not those that ``sha256`` names, or
            a key or value of ``config`` is unknown.
    """
    if "visual_path" not in cfg_model:
        raise ValueError(
            "task.id=docvqa wants a VT5: set model=vt5-tiny or another of conf/model/*t5*, or "
            "another task"
        )
    _override(VT5Config(), plain(cfg_model.config))
    return locate(cfg_model)


def _config(cfg_model: DictConfig, sources: Sources) -> VT5Config:
    config = VT5Config()
    if sources.weights is not None:
        check_own_config("path", sources.weights)
        with readable("path", cfg_model.path):
            config = VT5Config.from_pretrained(sources.weights)
    config = _override(config, plain(cfg_model.config))
    if sources.visual is not None:
        check_own_config("visual_path", sources.visual)
    if sources.visual is not None and config.visual is None:
        with readable("visual_path", sources.visual):
            found, _ = PreTrainedConfig.get_config_dict(sources.visual)
            if found.get("model_type") != BeitConfig.model_type:
                raise ValueError(
                    f"model.visual_path={sources.visual!r} is a {found.get('model_type')}, but the "
                    "visual encoder is a BEiT, as DiT is: choose such a checkpoint"
                )
            visual = BeitConfig.from_pretrained(sources.visual).to_dict()
        config = _override(config, {"visual": {key: visual[key] for key in sorted(VISUAL_KEYS)}})
    return config


def _override(config: VT5Config, overrides: dict[str, Any]) -> VT5Config:
    """A new config, so that the overrides are checked like any other value."""
    values = config.to_dict()
    override_known(overrides, {*values})
    return VT5Config(**(values | overrides))


def _model(
    cfg_model: DictConfig, sources: Sources, config: VT5Config
) -> VT5ForConditionalGeneration:
    # An empty checkpoint lacks every weight: "random" is drawn as a missing weight is.
    checkpoint: dict[str, Any] = {"state_dict": {}} if sources.weights is None else {}
    with readable("path", cfg_model.path):
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
        refuse("path", cfg_model.path, [n for n in report["missing_keys"] if not DRAWN.match(n)])
    return model


def _load_visual(model: VT5ForConditionalGeneration, source: str) -> None:
    """Load the visual encoder; a classifier or pooler of the checkpoint has no use here."""
    with readable("visual_path", source):
        loaded: Any = BeitModel.from_pretrained(
            source,
            config=model.visual_encoder.config,
            add_pooling_layer=False,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    visual, report = loaded
    refuse("visual_path", source, report["missing_keys"])
    model.visual_encoder.load_state_dict(visual.state_dict())
