"""Pretrained models and their tokenizers, by config: an embedded one, a folder or a hub id; and
models of any shape with weights drawn from a seed.
"""

from omegaconf import DictConfig
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fl_app.models.auto import DTYPES, QUANTIZATIONS, find_auto, load_auto
from fl_app.models.sources import Sources
from fl_app.models.vt5_checkpoint import find_vt5, load_vt5

__all__ = ["DTYPES", "QUANTIZATIONS", "find", "load", "load_vt5"]


def load(
    cfg_model: DictConfig, seed: int, task: DictConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model for a task (on the CPU, in evaluation mode) and its tokenizer.

    What ``transformers.AutoModelFor...`` makes of ``task.id``; for docvqa a VT5, see ``load_vt5``.
    Weights are read from safetensors alone, and code of a checkpoint is never run. Of what a
    checkpoint lacks only a classification head is drawn, from ``seed``, the same on every machine;
    torch's global generator is left as it was.

    Args:
        cfg_model: ``path`` ("embedded:NAME" of this project, a folder, a hub id, or "random": all
            weights are drawn for the architecture ``config.model_type``), ``sha256`` of
            model.safetensors (None: not checked), ``tokenizer`` (like ``path``; None: the one
            there), ``config`` (overrides of the config), ``dtype`` of the weights, and
            ``quantization`` of those of linear layers but the head (4bit: NF4; 8bit: LLM.int8()).
        task: its ``id`` and, of a classifier, ``labels``.

    Raises:
        FileNotFoundError: no such folder or hub id, or it cannot be reached.
        ValueError: the weights are not those that ``sha256`` names, are those of another
            architecture or of other shapes, or a config key is unknown.
    """
    if task.id == "docvqa":
        return load_vt5(cfg_model, seed)
    return load_auto(cfg_model, seed, task)


def find(cfg_model: DictConfig, task: DictConfig) -> Sources:
    """Where the model is; what can be said without a network about whether ``load`` can be.

    Raises:
        FileNotFoundError, ValueError: as of ``load``.
    """
    return find_vt5(cfg_model) if task.id == "docvqa" else find_auto(cfg_model, task)
