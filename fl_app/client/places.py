"""Which files and hub ids a run's configuration may name on a node.

Every value that could name one is judged, by its key or by its look: a new key of conf/ is refused
until it stands here.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fl_app.client.policy import Models, Policy, RefusedError, Rows
from fl_app.config import SPLITS

EMBEDDED = re.compile(r"embedded:\w[\w-]*")
RANDOM = "random"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

MODELS = ("model.path", "model.tokenizer", "model.visual_path")
ROWS = ("data.path", *(f"data.{split}.path" for split in SPLITS))
# What names no file of a node, whatever is in it: text, names of columns and modules, and what only
# the server reads.
TEXT = (
    *("experiment", "logger", "output", "resume", "task", "data.partitioner"),
    *("adapter.freeze", "adapter.modules_to_save", "adapter.target_modules", "adapter.args"),
    *(f"data.{split}.{key}" for split in SPLITS for key in ("columns", "drop")),
)
_KEY = re.compile(
    r"(path|paths|dirs?|folders?|files?|file_?name|tokenizer|ur[il]|root|checkpoint)$"
)
_LOOK = re.compile(r"[/\\~]|^\.|^\w+:")


def check(config: Mapping[str, Any], policy: Policy, reads_rows: bool) -> None:
    """Check every place that a run's configuration names.

    Parameters
    ----------
    config : mapping
        The whole configuration, as plain values.
    reads_rows : bool
        Whether this node reads the run's data; else it has rows of its own alone.

    Raises
    ------
    RefusedError
        For the first that the policy does not allow.
    """
    for key, value in leaves(config):
        if value is None or _is_below(key, TEXT):
            continue
        if key in MODELS:
            _check_place(key, value, "models", policy.models)
        elif key in ROWS:
            if reads_rows:
                _check_place(key, value, "rows", policy.rows)
        elif looks_like_a_place(key, value):
            raise RefusedError("models" if key.startswith("model.") else "rows", key)


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything that is no mapping and no list."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from leaves(value, f"{path}.{index}")
    else:
        yield path, config


def looks_like_a_place(key: str, value: Any) -> bool:
    """Return whether a value is, by its key or its look, the name of a file, an address, an id."""
    if not isinstance(value, str):
        return False
    name = re.sub(r"(\.\d+)+$", "", key)  # of a list
    return bool(_KEY.search(name) or _LOOK.search(value))


def is_in(path: str, folders: Iterable[str]) -> bool:
    """Return whether a path leads, symbolic links followed, to one of the folders or into it."""
    if "\0" in path or ".." in Path(path).parts:
        return False
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def is_hub_id(value: str, patterns: Iterable[str]) -> bool:
    """Return whether a hub id fits a pattern, and is not also the name of something in the current
    folder, which libraries would take instead.
    """
    if not HUB_ID.fullmatch(value) or os.path.lexists(value):
        return False
    return any(_pattern(pattern).fullmatch(value) for pattern in patterns)


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))


def _check_place(key: str, value: Any, rule: str, allowed: Models | Rows) -> None:
    if isinstance(value, str):
        if rule == "models" and (EMBEDDED.fullmatch(value) or value == RANDOM):
            return
        if Path(value).is_absolute():
            if is_in(value, allowed.folders):
                return
            raise RefusedError(f"{rule}.folders", key)
        if is_hub_id(value, allowed.hub):
            return
        if HUB_ID.fullmatch(value):
            raise RefusedError(f"{rule}.hub", key)
    raise RefusedError(rule, key)


def _is_below(key: str, above: Iterable[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in above)
