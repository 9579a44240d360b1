"""Pretrained models and their tokenizers, by config: the embedded one, a folder or a hub id; and
models of any shape with weights drawn from a seed.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from transformers import (
    AutoTokenizer,
    BeitConfig,
    BeitModel,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from fl_app.config import plain
from fl_app.installed import installed
from fl_app.models.draws import SeededDraws
from fl_app.models.vt5 import VISUAL_KEYS, VT5Config, VT5ForConditionalGeneration

__all__ = ["find", "load"]

EMBEDDED = "embedded:"
RANDOM = "random"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# What a plain T5 has not; everything else must be in a checkpoint.
DRAWN = re.compile(r"(spatial|visual_matcher|visual_encoder)\..*|lm_head\.weight")


@dataclass(frozen=True)
class Sources:
    """What ``from_pretrained`` takes: folders, or hub ids as they are. None: there is none."""

    weights: str | None
    tokenizer: str
    visual: str | None


def load(
    cfg_model: DictConfig, seed: int
) -> tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """The pretrained model (fp32, on the CPU, in evaluation mode) and its tokenizer.

    Weights that the checkpoint lacks (a plain T5 has no spatial embedding) are drawn from
    ``seed``, the same on every machine; torch's global generator is left as it was. An untied
    ``lm_head`` that it lacks starts as the token embedding.

    Args:
        cfg_model: ``path`` ("embedded:NAME" of this project, a folder, a hub id, or "random": all
            weights are drawn), ``sha256`` of model.safetensors (None: not checked), ``tokenizer``
            (like ``path``; None: the one there), ``visual_path`` (folder or hub id of the BEiT or
            DiT that is the visual encoder; None: the visual encoder of ``path``, if any) and
            ``config``, overrides of the config.

    Raises:
        FileNotFoundError: no such folder or hub id, or it cannot be reached.
        ValueError: the weights are not those that ``sha256`` names, are those of another
            architecture or of other shapes, or a config key is unknown.
    """
    sources = find(cfg_model)
    with _quiet(), torch.random.fork_rng(devices=[]), SeededDraws(seed):
        torch.manual_seed(seed)
        config = _config(cfg_model, sources)
        model = _model(cfg_model, sources, config)
        if sources.visual is not None:
            _load_visual(model, sources.visual)
    with _quiet(), _readable("tokenizer" if cfg_model.tokenizer else "path", sources.tokenizer):
        tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(sources.tokenizer))
    if cfg_model.tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"model.tokenizer={cfg_model.tokenizer!r} has {len(tokenizer)} pieces, the model's "
            f"vocabulary {config.vocab_size}: choose the model's own tokenizer"
        )
    return model, tokenizer


def find(cfg_model: DictConfig) -> Sources:
    """Where the model is; whether a hub id can be had is not asked here.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the weights are not those that ``sha256`` names, or a key or value of
            ``config`` is unknown.
    """
    overrides = plain(cfg_model.config)
    _override(VT5Config(), overrides)
    visual = cfg_model.visual_path
    if visual is not None:
        visual = _source("model.visual_path", visual, "config.json")
    if cfg_model.path == RANDOM:
        if cfg_model.sha256 is not None or cfg_model.tokenizer is None:
            raise ValueError(
                f"model.path={RANDOM} has no weights and no tokenizer of its own: set "
                f"model.sha256=null and a model.tokenizer, such as {EMBEDDED}vt5_tiny"
            )
        weights = None
    else:
        weights = _source("model.path", cfg_model.path, "config.json")
        _check_digest(weights, cfg_model.sha256)
    if cfg_model.tokenizer is None:
        tokenizer = cast(str, weights)
    else:
        tokenizer = _source("model.tokenizer", cfg_model.tokenizer, "tokenizer_config.json")
    return Sources(weights, tokenizer, visual)


def _source(key: str, path: str, file: str) -> str:
    if path.startswith(EMBEDDED):
        # The weights themselves: Flower's copy of the app has the folder, without them.
        folder = f"fl_app/models/{path.removeprefix(EMBEDDED)}"
        try:
            return str(installed(f"{folder}/model.safetensors").parent)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{key}={path!r}: {error}") from None
    folder_exists = Path(path).is_absolute() and (Path(path) / file).is_file()
    if not folder_exists and not HUB_ID.fullmatch(path):
        raise FileNotFoundError(
            f"{key}={path!r} should be {EMBEDDED}NAME, a hub id (ORGANISATION/NAME), or the "
            f"absolute path of a folder with {file}"
        )
    return path


def _check_digest(source: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    weights = Path(source) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is missing: model.sha256 is that of a folder's weights; download the "
            "checkpoint and set model.path to its folder"
        )
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{weights} has sha256 {digest}, the config says {sha256}; restore the file with "
            "`git checkout`, or set model.sha256 if you trained new weights"
        )


def _config(cfg_model: DictConfig, sources: Sources) -> VT5Config:
    config = VT5Config()
    if sources.weights is not None:
        with _readable("path", cfg_model.path):
            config = VT5Config.from_pretrained(sources.weights)
    config = _override(config, plain(cfg_model.config))
    if sources.visual is not None and config.visual is None:
        with _readable("visual_path", sources.visual):
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
    unknown = sorted(set(overrides) - set(values))
    if unknown:
        raise ValueError(f"unknown model.config keys: {', '.join(unknown)}")
    return VT5Config(**(values | overrides))


def _model(
    cfg_model: DictConfig, sources: Sources, config: VT5Config
) -> VT5ForConditionalGeneration:
    # An empty checkpoint lacks every weight: "random" is drawn as a missing weight is.
    checkpoint: dict[str, Any] = {"state_dict": {}} if sources.weights is None else {}
    with _readable("path", cfg_model.path):
        loaded: Any = VT5ForConditionalGeneration.from_pretrained(
            sources.weights,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **checkpoint,
        )
    model, report = loaded
    if sources.weights is not None:
        _refuse("path", cfg_model.path, [n for n in report["missing_keys"] if not DRAWN.match(n)])
    return model


def _load_visual(model: VT5ForConditionalGeneration, source: str) -> None:
    """Load the visual encoder; a classifier or pooler of the checkpoint has no use here."""
    with _readable("visual_path", source):
        loaded: Any = BeitModel.from_pretrained(
            source,
            config=model.visual_encoder.config,
            add_pooling_layer=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    visual, report = loaded
    _refuse("visual_path", source, report["missing_keys"])
    model.visual_encoder.load_state_dict(visual.state_dict())


def _refuse(key: str, path: str, missing: list[str] | set[str]) -> None:
    if missing:
        raise ValueError(
            f"model.{key}={path!r} lacks {len(missing)} weights of the model, for example "
            f"{min(missing)}: it is a checkpoint of another architecture, or incomplete"
        )


@contextmanager
def _readable(key: str, path: str) -> Iterator[None]:
    """Turns transformers' errors about a checkpoint into one that names the option."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"model.{key}={path!r} is neither a folder with a checkpoint nor a hub id that can be "
            f"reached from here; download it and set model.{key} to its folder"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"model.{key}={path!r} has weights of other shapes than model.config asks for: {error}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its report of weights to be drawn."""
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
