"""The trained models in a run's folder: that of the last round, and that of the best one.

``adapter-best/`` is the model of the round that the validation rows select
(``fl_app.runs.selection``), also where that is the last one. Without validation rows there is none:
a round that the test rows had selected would be judged by the same rows. It is written after the
checkpoint of its round, so that a resumed run can write it again, with the same bytes, if it was
stopped in between.

A folder stands alone: beside the weights are the tokenizer, what answers need (`settings`,
generation_config.json), the name of the base, or a copy of it, and a card. Nothing in it says when,
where or by whom it was made: the same run writes the same bytes.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fl_app.adapters import BASE
from fl_app.config import plain
from fl_app.files import atomic_file, atomic_folder, replaced_folder
from fl_app.runs import settings
from fl_app.runs.base_model import Base
from fl_app.runs.bases import COPY

LAST, BEST = "adapter", "adapter-best"
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
# PEFT's names for the heads that the tasks need; a VT5 has none.
KINDS = {"causal_lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "sequence_classification": "SEQ_CLS"}


def write(run: Path, name: str, export: Callable[[Path], None], parts: "Parts", card: str) -> None:
    """Write a model completely or not at all, in place of the one that is there.

    Parameters
    ----------
    run : Path
        The folder of the run.
    name : str
        ``LAST`` or ``BEST``.
    export : callable
        Writes the weights into a folder.
    parts : Parts
        What else it needs.
    card : str
        README.md, see ``fl_app.runs.model_card``.
    """
    with replaced_folder(run / name) as folder:
        export(folder)
        parts.write(folder)
        (folder / CARD).write_text(card, encoding="utf-8")


def describe(folder: Path, card: str) -> None:
    """Replace the card of a model that later rounds have added to."""
    atomic_file(folder / CARD, card.encode())


def best(run: Path) -> Path | None:
    """Return the folder of the best round's model; None if the run has none."""
    return run / BEST if (run / BEST).is_dir() else None


class Parts:
    """What stands beside the weights of a model.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of the run.
    tokenizer : PreTrainedTokenizerFast
        The model's own.
    task : Task
        The task of the run.
    own : GenerationConfig or None
        Of the model; None: it generates nothing.
    base : Base
        The model that the run started from.
    """

    def __init__(self, cfg: DictConfig, tokenizer: Any, task: Any, own: Any, base: Base) -> None:
        self.cfg, self.tokenizer, self.task, self.own = cfg, tokenizer, task, own
        self.base = base

    def write(self, folder: Path) -> None:
        """Write them into the folder of a model."""
        save_tokenizer(self.tokenizer, folder)
        text = json.dumps(settings.of(self.cfg, self.base), indent=2, sort_keys=True)
        (folder / settings.FILE).write_text(f"{text}\n", encoding="utf-8")
        generation = self.generation()
        if generation is not None:
            generation.save_pretrained(str(folder))
        config = folder / ADAPTER_CONFIG
        if config.is_file():
            self._name_base(config)
        without_paths(folder / "config.json")
        if (folder / BASE).is_dir():  # the adapter's own
            save_tokenizer(self.tokenizer, folder / BASE)
            without_paths(folder / BASE / "config.json")

    def generation(self) -> Any:
        """Return the greedy settings of the run's answers; None for a classifier."""
        end, pad = getattr(self.task, "end", None), getattr(self.task, "pad", None)
        if self.own is None or end is None or pad is None:
            return None
        from fl_app.models.generation import greedy_config

        length = self.task.max_answer_length
        return greedy_config(self.own, max_new_tokens=length, pad_token_id=pad, eos_token_id=end)

    def _name_base(self, path: Path) -> None:
        """Write into PEFT's file where the base is, and what kind of model it is."""
        found = json.loads(path.read_text(encoding="utf-8"))
        copied = self.cfg.output.base == COPY
        found["base_model_name_or_path"] = f"./{BASE}" if copied else self.base.id
        found["revision"] = None if copied else self.base.revision
        kind = KINDS.get(self.cfg.task.id)
        if kind is not None:
            found["task_type"], found["auto_mapping"] = kind, None
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_base(folder: Path | None, cfg: DictConfig) -> None:
    """Write the base model beside an adapter, in full precision, with its tokenizer.

    The base is loaded once more for it.
    """
    if folder is None or not (folder / ADAPTER_CONFIG).is_file() or (folder / BASE).is_dir():
        return
    from fl_app import models

    whole = DictConfig(plain(cfg.model))
    if "quantization" in whole:
        whole.quantization = "none"
    model, tokenizer = models.load(whole, cfg.seed, cfg.task)
    with atomic_folder(folder / BASE) as made:
        model.save_pretrained(str(made))
        save_tokenizer(tokenizer, made)
        without_paths(made / "config.json")


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer as it was loaded: it remembers how its last call cut and padded."""
    fresh = copy.deepcopy(tokenizer)
    fresh.backend_tokenizer.no_truncation()
    fresh.backend_tokenizer.no_padding()
    fresh.save_pretrained(str(folder))
    without_paths(folder / "tokenizer_config.json")


def without_paths(path: Path) -> None:
    """Leave out of a JSON file what names a place of this machine; sort its keys."""
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        key: value
        for key, value in found.items()
        if not (isinstance(value, str) and Path(value).is_absolute())
    }
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
