"""Find a model's files: in this project, in a folder, on the hub, or none (drawn weights)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from fl_app.faults.suggestions import did_you_mean
from fl_app.files import installed

if TYPE_CHECKING:  # paths are checked before transformers is imported
    from transformers import PreTrainedTokenizerFast

EMBEDDED = "embedded:"
RANDOM = "random"
IMPLEMENTATIONS = (None, "eager", "sdpa")  # of attention and experts; others are downloaded code
MOST_NAMED = 5  # missing weights in a message
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Sources:
    """The arguments of ``from_pretrained``: folders or hub ids.

    Attributes
    ----------
    weights : str or None
        The model; None: its weights are drawn.
    tokenizer : str
        The tokenizer.
    visual : str or None
        A visual encoder with a checkpoint of its own.
    """

    weights: str | None
    tokenizer: str
    visual: str | None

    @property
    def local(self) -> bool:
        """Tell whether the weights are files on this machine."""
        return self.weights is not None and Path(self.weights).is_absolute()


def locate(cfg_model: DictConfig) -> Sources:
    """Find the model's files; the hub is not contacted.

    Parameters
    ----------
    cfg_model : DictConfig
        See ``fl_app.models.load``; and ``visual_path`` of a VT5.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If the weights do not have the digest ``sha256``, or there is no tokenizer.
    """
    sources = named(cfg_model)
    if sources.weights is not None:
        _check_digest(sources.weights, cfg_model.sha256)
    return sources


def named(cfg_model: DictConfig) -> Sources:
    """Return what the options name; no file is read.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    ValueError
        If there is no tokenizer.
    """
    visual = cfg_model.get("visual_path")
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
    if cfg_model.tokenizer is None:
        tokenizer = cast(str, weights)
    else:
        tokenizer = _source("model.tokenizer", cfg_model.tokenizer, "tokenizer_config.json")
    return Sources(weights, tokenizer, visual)


def check_own_config(key: str, source: str) -> None:
    """Refuse a checkpoint whose config.json names code to run: an attention or kernel of the hub.

    Parameters
    ----------
    key : str
        The option below ``model`` that names the checkpoint, for messages.
    source : str
        Its folder or hub id.

    Raises
    ------
    FileNotFoundError
        If the checkpoint cannot be reached.
    ValueError
        If it names code, or is an adapter, which would name another checkpoint.
    """
    from transformers import PreTrainedConfig
    from transformers.utils import find_adapter_config_file

    with clear_errors(key, source):
        if find_adapter_config_file(source) is not None:
            raise ValueError(
                f"model.{key}={source!r} contains an adapter, which names another checkpoint: "
                "choose the whole model"
            )
        found, _ = PreTrainedConfig.get_config_dict(source)
    for name, value in _named(found):
        if "implementation" in name and value not in IMPLEMENTATIONS:
            raise ValueError(
                f"model.{key}={source!r}: its config.json has {name}={value!r}, which names code "
                f"of its own; known: {', '.join(filter(None, IMPLEMENTATIONS))}"
            )


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(name, value)`` for every value of a nested config except mappings and lists."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _named(part, f"{name}.{key}" if "implementation" in name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _named(part, name)
    else:
        yield name, value


def load_tokenizer(cfg_model: DictConfig, sources: Sources) -> PreTrainedTokenizerFast:
    """Load the tokenizer of ``sources``.

    Raises
    ------
    FileNotFoundError
        If it cannot be reached.
    """
    from transformers import AutoTokenizer

    key = "tokenizer" if cfg_model.tokenizer else "path"
    source = sources.tokenizer
    with quiet(), clear_errors(key, source), no_custom_code(key, source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return cast("PreTrainedTokenizerFast", tokenizer)


def check_known(overrides: dict[str, Any], known: set[str], key: str = "model.config") -> None:
    """Check that a model's config has all keys of ``overrides``, the value of the option ``key``.

    Raises
    ------
    ValueError
        If it lacks some; the message names them and the known ones.
    """
    unknown = sorted({*overrides} - known)
    if unknown:
        raise ValueError(
            f"unknown {key} keys: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )


def check_complete(key: str, path: str, missing: list[str] | set[str]) -> None:
    """Check that no weights of a checkpoint are missing.

    Raises
    ------
    ValueError
        If some are; the message names them.
    """
    if missing:
        first = sorted(missing)[:MOST_NAMED]
        more = len(missing) - len(first)
        raise ValueError(
            f"model.{key}={path!r} lacks {len(missing)} weights of the model: {', '.join(first)}"
            f"{f' and {more} more' if more else ''}. It belongs to another architecture, or is "
            "incomplete: choose another checkpoint or task"
        )


@contextmanager
def clear_errors(key: str, path: str) -> Iterator[None]:
    """Turn an error of transformers about a checkpoint into one that names the option."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"model.{key}={path!r} is neither a folder with a checkpoint (config.json and "
            "*.safetensors; pickled weights, *.bin, are never read: save them again with "
            "save_pretrained) nor a hub id that can be reached from here; download it and set "
            f"model.{key} to its folder"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"model.{key}={path!r} has weights of other shapes than model.config: {error}"
        ) from error


@contextmanager
def no_custom_code(key: str, path: str) -> Iterator[None]:
    """Replace transformers' advice to run a checkpoint's own code by an error without it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"model.{key}={path!r} is of a kind that transformers itself does not have, and code "
            "of a checkpoint is never run: choose another model"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and its report of weights that are drawn."""
    from transformers.utils import logging

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


def _source(key: str, path: str, file: str) -> str:
    if path.startswith(EMBEDDED):
        # Look for the weights: Flower's copy of the app has the folder, but not the weights.
        folder = f"fl_app/models/{path.removeprefix(EMBEDDED)}"
        try:
            if not re.fullmatch(r"\w+", path.removeprefix(EMBEDDED)):  # no other folder
                raise FileNotFoundError(path)
            return str(installed(f"{folder}/model.safetensors").parent)
        except FileNotFoundError as error:
            shipped = sorted(
                p.parent.name for p in installed("fl_app/models").glob("*/config.json")
            )
            if path.removeprefix(EMBEDDED) not in shipped:
                known = [EMBEDDED + name for name in shipped]
                raise FileNotFoundError(
                    f"{key}={path!r} should be one of {', '.join(known)}."
                    f"{did_you_mean(path, known)}"
                ) from None
            raise FileNotFoundError(f"{key}={path!r}: {error}") from None
    folder_exists = Path(path).is_absolute() and (Path(path) / file).is_file()
    # A folder of that name in the current folder would take precedence in transformers.
    is_hub_id = HUB_ID.fullmatch(path) is not None and not Path(path).exists()
    if not folder_exists and not is_hub_id:
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
            f"{weights} is missing: model.sha256 is the digest of a folder's weights; download the "
            "checkpoint and set model.path to its folder"
        )
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{weights} has sha256 {digest}, but the configuration says {sha256}; restore the file "
            "with `git checkout`, or set model.sha256 if you trained new weights"
        )
