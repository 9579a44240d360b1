"""What training changes: the trained tensors of finished runs, less theta0.

A run keeps the tensors of its last round. If its clients sent with loss, their changes are values
of its codec, which that codec encodes without error (NF4 of what NF4 decoded), so only runs that
sent without loss are usable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from fl_app.build import open_session
from fl_app.codecs import Tree
from fl_app.config import read_yaml
from fl_app.files import project_root
from fl_app.tree import digest

COMMAND = 'make run RUN="codec=fp32 rounds=1 local_epochs=2"'
"""A command that makes a usable run."""
LOSSLESS = {"fp32", "delta", "chain", "entropy"}


def newest() -> list[Path]:
    """Return the newest usable run in ``runs/`` for every adapter, the newest of all first."""
    found = sorted(
        (project_root() / "runs").glob("*/summary.json"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    chosen: dict[str, Path] = {}
    for folder in (path.parent for path in found):
        if unusable(folder) is None:
            chosen.setdefault(read_yaml(folder / "config.yaml")["adapter"]["id"], folder)
    return list(chosen.values())


def unusable(folder: Path) -> str | None:
    """Return why a run cannot be used; None where it can."""
    summary = folder / "summary.json"
    if not summary.is_file() or json.loads(summary.read_text())["status"] != "completed":
        return "not a completed run"
    if not list(folder.glob("checkpoints/*.safetensors")):
        return "no checkpoint"
    up = read_yaml(folder / "config.yaml")["codec"]["up"]
    return None if _ids(up) <= LOSSLESS else "its clients sent with loss"


def load(folder: Path) -> tuple[str, Tree]:
    """Return a title and the last round's tensors less theta0.

    theta0 is built again, from the overrides of the run.

    Raises
    ------
    ValueError
        The run cannot be used, or this version starts from another theta0.
    """
    if reason := unusable(folder):
        raise ValueError(f"{folder}: {reason}")
    summary = json.loads((folder / "summary.json").read_text())
    theta0 = open_session(summary["overrides"]).theta0
    if digest(theta0) != summary["theta0_digest"]:
        raise ValueError(f"{folder}: this version starts from another theta0; run it again")
    last = load_file(max(folder.glob("checkpoints/*.safetensors")))
    adapter = read_yaml(folder / "config.yaml")["adapter"]["id"]
    title = f"{adapter} fine-tuning (runs/{folder.name})"
    return title, {name: last[name] - start for name, start in theta0.items()}


def _ids(spec: Any) -> set[str]:
    """Return the ids of all codecs in a spec."""
    if isinstance(spec, list):
        return set().union(*map(_ids, spec))
    if not isinstance(spec, dict):
        return set()
    return {str(spec["id"])}.union(*(_ids(v) for key, v in spec.items() if key != "id"))
