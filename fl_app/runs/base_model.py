"""The base model of an adapter as others can find it: by hub id and revision, never by a path."""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from fl_app.models import sources
from fl_app.models.sources import EMBEDDED, HUB_ID, RANDOM

SNAPSHOT = re.compile(r".*/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/?")
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


class Base(NamedTuple):
    """What is known of a base model.

    Attributes
    ----------
    id : str or None
        Its id on the hub; None: it is not there.
    revision : str or None
        The commit of the hub; None: unknown.
    sha256 : str or None
        See `weights_digest`; None: weights that are drawn, or of the hub.
    said : str
        In words, for the card.
    """

    id: str | None
    revision: str | None
    sha256: str | None
    said: str


def described(cfg_model: DictConfig) -> Base:
    """Return what others need to know of the model that ``cfg_model`` names.

    A folder in the hub's cache is known by id and revision. Another folder may say in its
    config.json what it was made of; its weights may have changed since, so that their digest is
    given too.

    Raises
    ------
    FileNotFoundError, ValueError
        See ``fl_app.models.sources.named``.
    """
    path = str(cfg_model.path)
    weights = sources.named(cfg_model).weights
    if weights is None:
        kind = cfg_model.config.get("model_type", "vt5")
        return Base(None, None, None, f"a {kind} whose weights are drawn from the run's seed")
    if not Path(weights).is_absolute():
        return Base(path, _revision(path), None, f"`{path}` of the hub")
    digest = weights_digest(Path(weights))
    if path.startswith(EMBEDDED):
        return Base(None, None, digest, f"`{path}`, which is shipped with Thinwire")
    if found := SNAPSHOT.fullmatch(weights):
        known = f"{found[1]}/{found[2]}"
        return Base(known, found[3], digest, f"`{known}` of the hub")
    if (named := _named_by(Path(weights))) is not None:
        return Base(named, None, digest, f"a folder whose config.json names `{named}`")
    kind = _config(Path(weights)).get("model_type", "model")
    return Base(None, None, digest, f"a folder with a {kind} that is not on the hub")


def is_public(path: str) -> bool:
    """Tell whether ``model.path`` means the same on every machine."""
    return not Path(path).is_absolute()


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, in hex.

    It is that of model.safetensors; of several files it is that of lines "NAME DIGEST".
    """
    if not (folder / INDEX).is_file():
        return _sha256(folder / WEIGHTS)
    names = sorted({*json.loads((folder / INDEX).read_text())["weight_map"].values()})
    lines = "".join(f"{name} {_sha256(folder / Path(name).name)}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def check(folder: str | None, sha256: str | None, known: str) -> None:
    """Check that the weights in ``folder`` are those that were trained on.

    Raises
    ------
    ValueError
        If they are others.
    """
    if sha256 is None or folder is None or not Path(folder).is_absolute():
        return
    found = weights_digest(Path(folder))
    if found != sha256:
        raise ValueError(
            f"the base model {known} has weights of sha256 {found}, and the adapter was trained on "
            f"{sha256}: it would answer wrongly. Name the right base with --base FOLDER"
        )


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the base model is incomplete")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _named_by(folder: Path) -> str | None:
    """Return the hub id that a folder's config names; None if it names none."""
    name = _config(folder).get("_name_or_path")
    is_id = isinstance(name, str) and "/" in name and HUB_ID.fullmatch(name) is not None
    return str(name) if is_id else None


def _revision(name: str) -> str | None:
    """Return the commit of a model in the hub's cache; None if it is not there."""
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    match = re.search(r"/snapshots/([0-9a-f]{40})/", str(found))
    return match[1] if match else None


__all__ = ["RANDOM", "Base", "check", "described", "is_public", "weights_digest"]
