"""Pretrained models and their tokenizers, by config: the embedded one, a folder or a hub id."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from fl_app.installed import installed
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration

__all__ = ["find", "load"]

EMBEDDED = "embedded:"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load(
    cfg_model: DictConfig, seed: int
) -> tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """The pretrained model (fp32, on the CPU, in evaluation mode) and its tokenizer.

    Weights that the checkpoint lacks (a plain T5 has no spatial embedding) are drawn from
    ``seed``, the same on every machine; torch's global generator is left as it was.

    Args:
        cfg_model: ``path`` ("embedded:NAME" of this project, a folder, or a hub id), ``sha256``
            of model.safetensors (None: not checked) and ``config``, overrides of the config.

    Raises:
        FileNotFoundError: no such folder or hub id, or it cannot be reached.
        ValueError: the weights are not those that ``sha256`` names, or a config key is unknown.
    """
    source = find(cfg_model)
    overrides = dict(cfg_model.config)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = VT5Config.from_pretrained(source)
            model = VT5ForConditionalGeneration.from_pretrained(
                source, config=_override(config, overrides), dtype=torch.float32
            )
            tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(source))
        except OSError as error:
            raise FileNotFoundError(
                f"model {cfg_model.path!r} is neither a folder with a checkpoint nor a hub id that "
                "can be reached from here; download it and set model.path to its folder"
            ) from error
    return model, tokenizer


def find(cfg_model: DictConfig) -> str:
    """What ``from_pretrained`` takes: a folder, or the hub id as it is.

    Raises:
        FileNotFoundError: no such folder; whether a hub id can be had is not asked here.
        ValueError: the weights are not those that ``sha256`` names, or a key or value of
            ``config`` is unknown.
    """
    source = _source(cfg_model.path)
    _check_digest(source, cfg_model.sha256)
    _override(VT5Config(), dict(cfg_model.config))
    return source


def _source(path: str) -> str:
    if path.startswith(EMBEDDED):
        # The weights themselves: Flower's copy of the app has the folder, without them.
        folder = f"fl_app/models/{path.removeprefix(EMBEDDED)}"
        try:
            return str(installed(f"{folder}/model.safetensors").parent)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"model.path={path!r}: {error}") from None
    folder_exists = Path(path).is_absolute() and (Path(path) / "config.json").is_file()
    if not folder_exists and not HUB_ID.fullmatch(path):
        raise FileNotFoundError(
            f"model.path={path!r} should be {EMBEDDED}NAME, a hub id (ORGANISATION/NAME), or the "
            "absolute path of a folder with config.json"
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


def _override(config: VT5Config, overrides: dict) -> VT5Config:
    """A new config, so that the overrides are checked like any other value."""
    values = config.to_dict()
    unknown = sorted(set(overrides) - set(values))
    if unknown:
        raise ValueError(f"unknown model.config keys: {', '.join(unknown)}")
    return VT5Config(**(values | overrides))


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
