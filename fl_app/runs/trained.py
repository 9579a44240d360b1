"""Load a trained model from a run's folder, or from an exported folder that was moved elsewhere.

Only safetensors and JSON are read: a folder may come from anyone, and nothing in it is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fl_app import models, tasks
from fl_app.adapters import ADAPTERS
from fl_app.adapters.peft_methods.support import VALUES
from fl_app.adapters.precision import modules_in_float32
from fl_app.config import read_text
from fl_app.files import installed
from fl_app.models.generation import unwrapped
from fl_app.models.head import classification_head
from fl_app.models.sources import EMBEDDED
from fl_app.runs import base_model, exported, settings
from fl_app.tasks.base import Task

MODELS = ("last", "best", "start")
FOLDERS = {"last": exported.LAST, "best": exported.BEST}
WEIGHTS = "adapter_model.safetensors"
# Of PEFT's configs: names of modules to import, of other checkpoints and of files, and what would
# be computed anew at loading although it is in the weights.
UNREAD = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "megatron_core"),
        *("megatron_config", "tokenizer_name_or_path", "tokenizer_kwargs", "loftq_config"),
        *("corda_config", "eva_config", "lora_ga_config", "peft_version", "inference_mode"),
    }
)
SIZES = ("r", "init_r", "num_virtual_tokens")  # of PEFT's configs, each a size of some tensor
START = "init_lora_weights"
MIXES_FILES = "XLORA"  # reads other adapters from the paths in its config


@dataclass(frozen=True)
class Place:
    """Where a trained model is.

    Attributes
    ----------
    cfg : DictConfig
        See ``fl_app.runs.settings``.
    folder : Path or None
        Its exported weights; None: the model that training starts from.
    """

    cfg: DictConfig
    folder: Path | None

    @property
    def is_adapter(self) -> bool:
        """Tell whether the folder holds an adapter, and no whole model."""
        return self.folder is not None and (self.folder / exported.ADAPTER_CONFIG).is_file()


class Trained(NamedTuple):
    """A trained model, its tokenizer, and the task that makes inputs and answers."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    task: Task


def find(path: Path, which: str = "last", base: str | None = None) -> Place:
    """Return where the model is that a user names.

    Parameters
    ----------
    path : Path
        The folder of a run, or one that a run has exported.
    which : str
        One of ``MODELS``.
    base : str or None
        Folder or hub id of the base model, in place of the one that the folder names.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model, or its settings cannot be read.
    """
    path = path.absolute()
    if (path / settings.FILE).is_file():
        if which == "best":
            raise ValueError(f"{path} holds one model: leave --model out")
        cfg, folder = settings.read(path), path
    elif (path / "config.yaml").is_file():
        cfg, folder = settings.of_run(path), path / FOLDERS.get(which, exported.LAST)
        if which != "start" and not folder.is_dir():
            kept = " A run without validation rows keeps no best model." if which == "best" else ""
            raise FileNotFoundError(
                f"{folder} is missing: the run has exported no such model.{kept} --model start is "
                "the model before training"
            )
        if (folder / settings.FILE).is_file():
            cfg.base = settings.read(folder).base
    else:
        raise FileNotFoundError(
            f"{path} is neither the folder of a run (config.yaml) nor a model that one has "
            f"exported ({settings.FILE})"
        )
    _set_base(cfg, folder, base)
    return Place(cfg, None if which == "start" else folder)


def _set_base(cfg: DictConfig, folder: Path, base: str | None) -> None:
    """Name in ``cfg.model`` where the base is: as asked, the copy beside it, or as it says."""
    copied = folder / exported.BASE
    if base is not None:
        cfg.model.path = str(Path(base).absolute()) if Path(base).exists() else base
    elif (copied / "config.json").is_file():
        cfg.model.path = str(copied)
        cfg.base.sha256 = None  # a copy may be in another precision than what it was made from
        cfg.model.config = {}  # which are in its own
        if "visual_path" in cfg.model:
            cfg.model.visual_path = None
    if base is not None or (copied / "config.json").is_file():
        cfg.model.sha256 = None
        cfg.model.tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        cfg.model.tokenizer = str(folder)


def load(place: Place, dense: bool = False) -> Trained:
    """Load a model with what its task needs, on the CPU, in evaluation mode.

    Parameters
    ----------
    place : Place
        See `find`.
    dense : bool
        Whether to load a base of 4 or 8 bits as a full-precision copy of what these bits say.

    Raises
    ------
    FileNotFoundError
        If a file is missing, or the base cannot be reached.
    ValueError
        If the weights are damaged or of another model, the base is another one, or the settings
        have values that no run has.
    """
    try:
        return _loaded(place, dense)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"the settings beside the model, {settings.FILE} or config.yaml, have a value that no "
            f"run has: {error!r}"
        ) from error


def _loaded(place: Place, dense: bool) -> Trained:
    cfg = place.cfg
    model: Any
    if place.folder is not None and not place.is_adapter:
        model, tokenizer = _whole(cfg, place.folder)
    else:
        model, tokenizer = _base(cfg)
        if dense:
            from fl_app.adapters.quantized import full_precision, is_quantized

            model = full_precision(model) if is_quantized(model) else model
        if place.folder is None:
            model = ADAPTERS[cfg.adapter.id].attach(model, cfg.adapter, cfg.seed).eval()
        else:
            model = with_adapter(model, place.folder).eval()
    return Trained(model, tokenizer, tasks.build(cfg, tokenizer, unwrapped(model).config))


def _base(cfg: DictConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the base model, and check that it is the one that was trained on."""
    if not cfg.model.path:
        raise FileNotFoundError(
            "the base model was a folder of another machine: name it with --base FOLDER (the "
            f"card says what it was; sha256 of its weights: {cfg.base.get('sha256')})"
        )
    path = str(cfg.model.path)
    folder = path
    if path.startswith(EMBEDDED):
        folder = str(installed(f"fl_app/models/{path.removeprefix(EMBEDDED)}"))
    elif path == cfg.base.get("id") and cfg.base.get("revision"):
        folder = cfg.model.path = _snapshot(path, cfg.base.revision)
    if (Path(folder) / "config.json").is_file():
        base_model.check(folder, cfg.base.get("sha256"), path)
    return models.load(cfg.model, cfg.seed, cfg.task)


def _snapshot(name: str, revision: str) -> str:
    """Return the folder of a model of the hub as it was when it was trained on."""
    from huggingface_hub import snapshot_download

    names = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        return snapshot_download(name, revision=revision, allow_patterns=names)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the base model {name}, revision {revision}, is neither in the hub's cache nor can "
            "the hub be reached from here: name a folder with --base"
        ) from error


def _whole(cfg: DictConfig, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a model of which every weight was trained."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} contains neither {exported.ADAPTER_CONFIG} nor config.json: it is no "
            "exported model"
        )
    found = cfg.model.copy()
    if not (folder / "tokenizer_config.json").is_file():
        found.tokenizer = found.tokenizer or found.path
    found.path, found.sha256, found.config = str(folder), None, {}
    if "visual_path" in found:
        found.visual_path = None
    else:
        found.dtype, found.head, found.quantization = "float32", "pretrained", "none"
    try:
        return models.load(found, cfg.seed, cfg.task)
    except SafetensorError as error:
        raise ValueError(f"{folder} has damaged weights: {error}") from None


def with_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return ``model`` with the adapter of ``folder``, frozen.

    Raises
    ------
    FileNotFoundError, ValueError
        If its weights are missing, damaged, or of another model.
    """
    config, path = adapter_config(folder), folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: weights are read from safetensors alone")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    try:
        _check_sizes(config, state)
        wrapped = get_peft_model(model, config)
        modules_in_float32(wrapped, classification_head(model))
        wanted = {*get_peft_model_state_dict(wrapped, save_embedding_layers=False)}
        if wanted != {*state}:
            odd = sorted(wanted ^ {*state})
            raise ValueError(f"{len(odd)} tensors differ, such as {odd[0]}")
        set_peft_model_state_dict(wrapped, state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit the base model: {error}") from None
    return wrapped


def _check_sizes(config: PeftConfig, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse ranks that no tensor has, before PEFT takes memory for them."""
    if config.peft_type == PeftType.LOKR:  # with a larger rank its matrices are whole
        return
    most = max((size for tensor in state.values() for size in tensor.shape), default=0)
    ranks = {name: getattr(config, name, None) for name in SIZES}
    ranks |= getattr(config, "rank_pattern", None) or {}
    for name, rank in ranks.items():
        if isinstance(rank, int) and rank > most:
            raise ValueError(f"{name}={rank}, and its tensors have at most {most} rows or columns")


def adapter_config(folder: Path) -> PeftConfig:
    """Return the adapter that a folder describes, without what names code or other files.

    Raises
    ------
    ValueError
        If it cannot be read, is of a kind that reads other files, or starts in a way that would
        change the base's weights.
    """
    path = folder / exported.ADAPTER_CONFIG
    try:
        saved = json.loads(read_text(path))
        if saved["peft_type"] == MIXES_FILES:
            raise ValueError(f"peft_type={MIXES_FILES} would read other files")
        start = saved.get(START, True)
        allowed, reason = VALUES[START]
        if start not in allowed:
            raise ValueError(f"{START}={start!r}: {reason}. Convert it to a plain LoRA first")
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(saved["peft_type"])]
        known = {*kind.__dataclass_fields__} - UNREAD - {"peft_type"}
        config: PeftConfig = kind(**{key: saved[key] for key in saved if key in known})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    config.inference_mode = True
    return config


def to_device(model: Any) -> Any:
    """Move a model to the GPU, if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


__all__ = [
    "MODELS",
    "Place",
    "Trained",
    "adapter_config",
    "find",
    "load",
    "to_device",
    "with_adapter",
]
