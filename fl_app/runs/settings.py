"""thinwire.json: what answers of an exported model need beside its weights.

A folder may come from anyone. The file is data: it names a task and a model that this project
knows, and nothing in it is built, imported or run.
"""

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_app.config import data_only, read_text, read_yaml
from fl_app.config.keys import plain
from fl_app.runs.base_model import Base, is_public

FILE = "thinwire.json"
FORMAT = 1
GROUPS = ("model", "task", "adapter")
PLACES = ("path", "tokenizer", "visual_path")  # of ``model``


def of(cfg: DictConfig, base: Base) -> dict[str, Any]:
    """Return the content of the file for a run.

    Paths of this machine are left out: a base in a folder is known by its digest.
    """
    groups = {name: dict(plain(cfg[name])) for name in GROUPS}
    model = groups["model"]
    for key in PLACES:
        if model.get(key) is not None and not is_public(model[key]):
            # An empty name is refused where a missing one would mean another model.
            model[key] = "" if key == "visual_path" else None
    model["tokenizer"] = None  # it stands beside the file
    model["path"] = model["path"] or base.id
    return {
        "format": FORMAT,
        "base": {"id": base.id, "revision": base.revision, "sha256": base.sha256},
        "seed": cfg.seed,
        **groups,
        "data": _data(cfg),
    }


def _data(cfg: DictConfig) -> dict[str, Any]:
    """Return how a table's columns are renamed and their values written."""
    columns = (cfg.data.get("test") or cfg.data).get("columns")
    return {
        "id": cfg.data.id,
        "columns": dict(plain(columns) or {}) if cfg.data.id == "table" else {},
        **{key: dict(plain(cfg.data.get(key)) or {}) for key in ("formats", "empty")},
        "sample_by": cfg.data.get("sample_by"),
    }


def read(folder: Path) -> DictConfig:
    """Return what the file in the folder of a model says.

    Raises
    ------
    ValueError
        If it is not one of this project's, or damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(read_text(path))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"its format should be {FORMAT}")
        cfg = _checked(found)
        if cfg.model.path is not None and not is_public(str(cfg.model.path)):
            raise ValueError("model.path is a path of another machine")
    except (KeyError, TypeError, ValueError, RecursionError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    return cfg


def of_run(run: Path) -> DictConfig:
    """Return the same of a run's own config.yaml.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    found = read_yaml(run / "config.yaml")
    whole = cast(DictConfig, OmegaConf.create({"base": {}, **found}))
    return _checked({**{k: found.get(k) for k in (*GROUPS, "seed")}, "base": {},
                     "data": _data(whole)})  # fmt: skip


def _checked(found: dict[str, Any]) -> DictConfig:
    data_only.check({key: value for key, value in found.items() if key != "strategy"})
    for name in (*GROUPS, "base", "data"):
        if not isinstance(found[name], dict):
            raise ValueError(f"{name} should be a mapping")
    if not isinstance(found["seed"], int):
        raise ValueError("seed should be a whole number")
    kept = {name: found[name] for name in (*GROUPS, "base", "data", "seed")}
    return cast(DictConfig, OmegaConf.create(kept))
