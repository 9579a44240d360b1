"""Models and their tokenizers, by config.

A model is an embedded one, a folder, a hub id, or an architecture with weights drawn from a seed.

- ``sources``: where the files are, and what is refused.
- ``auto``: any model of transformers, with the head of a task.
- ``vt5``, ``spatial``, ``vt5_checkpoint``: the model for documents, and how it is loaded.
- ``head``: the head of a classifier. ``draws``: weights from a seed.
- ``limits``: what a model can take. ``generation``: which of a checkpoint's options count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:  # torch and transformers are imported with the first model
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from fl_app.models.sources import Sources
    from fl_app.models.vt5 import VT5ForConditionalGeneration

DTYPES = ("float32", "bfloat16")  # names in torch
HEADS = ("pretrained", "random")  # of a classifier
QUANTIZATIONS = ("none", "4bit", "8bit")


def load(
    cfg_model: DictConfig, seed: int, task: DictConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model for a task and its tokenizer.

    The model is the ``transformers.AutoModelFor...`` of ``task.id``; for docvqa it is a VT5, see
    ``load_vt5``. Weights are read only from safetensors, and code of a checkpoint is never run. A
    checkpoint may lack only a classification head and the pooler before it. These are drawn from
    ``seed``, with the same bits on every machine; torch's global generator is not changed.

    Parameters
    ----------
    cfg_model : DictConfig
        ``path``: "embedded:NAME" of this project, a folder, a hub id, or "random" (all weights are
        drawn for the architecture ``config.model_type``). ``sha256`` of model.safetensors; None:
        not checked. ``tokenizer``: like ``path``; None: that of ``path``. ``config``: overrides of
        the model's config. ``head`` of a classifier: pretrained or random. ``dtype`` of the
        weights. ``quantization`` of linear layers other than
        the head: none, 4bit (NF4) or 8bit (LLM.int8()).
    seed : int
        The run's seed.
    task : DictConfig
        ``id``, and ``labels`` of a classifier.

    Returns
    -------
    (PreTrainedModel, PreTrainedTokenizerFast)
        The model is on the CPU, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If the folder or hub id does not exist or cannot be reached.
    ValueError
        If the weights do not have the digest ``sha256``, belong to another architecture or have
        other shapes, or a config key is unknown.
    """
    check_kind(cfg_model, task)
    if task.id == "docvqa":
        return load_vt5(cfg_model, seed)
    from fl_app.models.auto import load_auto

    return load_auto(cfg_model, seed, task)


def load_vt5(
    cfg_model: DictConfig, seed: int
) -> tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Load a VT5 and its tokenizer; see ``fl_app.models.vt5_checkpoint``."""
    from fl_app.models import vt5_checkpoint

    return vt5_checkpoint.load_vt5(cfg_model, seed)


def find(cfg_model: DictConfig, task: DictConfig) -> Sources:
    """Find the model's files and check, without a network, whether ``load`` can succeed.

    Raises
    ------
    FileNotFoundError, ValueError
        As from ``load``.
    """
    check_kind(cfg_model, task)
    if task.id == "docvqa":
        from fl_app.models.vt5_checkpoint import find_vt5

        return find_vt5(cfg_model)
    from fl_app.models.auto import find_auto

    return find_auto(cfg_model, task)


def check_kind(cfg_model: DictConfig, task: DictConfig) -> None:
    """Check that the options are those of the kind of model that the task needs.

    Raises
    ------
    ValueError
        If they are of a VT5 and the task needs a language model, or the reverse.
    """
    if task.id == "docvqa" and "visual_path" not in cfg_model:
        raise ValueError(
            "task.id=docvqa needs a VT5: set model=vt5-tiny or another of conf/model/*t5*, or "
            "choose another task"
        )
    if task.id != "docvqa" and "quantization" not in cfg_model:
        raise ValueError(
            f"task.id={task.id} needs a language model, but this is a VT5: set model=huggingface "
            "and model.path, or choose another file of conf/model"
        )
