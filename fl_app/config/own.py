"""Experiments of the user's own, in a folder outside the project: data that become overrides.

``--conf DIR`` looks for ``experiment=NAME`` in ``DIR/experiment/NAME.yaml`` first. Such a file has
the form of those in conf/experiment. Its entries become overrides before the ones that were typed,
so that a run's overrides say all there is, and are checked like any others.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fl_app.config import data_only
from fl_app.config.keys import CONF_DIR, OPEN, ConfigError
from fl_app.config.shorthand import literal
from fl_app.config.stored import read_yaml
from fl_app.faults.suggestions import did_you_mean

FOLDER = "experiment"
HEAD = "# @package _global_\n"


def with_own(words: Sequence[str], conf: Path | None) -> list[str]:
    """Return overrides in which an experiment of ``conf`` is written out.

    Raises
    ------
    ConfigError
        If there is no such experiment, two of that name, or its file is not one.
    """
    if conf is None:
        return list(words)
    names = sorted(path.stem for path in (conf / FOLDER).glob("*.yaml"))
    if not names:
        raise ConfigError(f"--conf {conf}: there is no file {conf / FOLDER}/NAME.yaml")
    found: list[str] = []
    typed: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") != FOLDER:
            typed.append(word)
            continue
        builtin = (CONF_DIR / FOLDER / f"{value}.yaml").exists()
        if value in names and builtin:
            raise ConfigError(
                f"experiment={value} is in {conf / FOLDER} and in the project: rename yours"
            )
        if value not in names and not builtin:
            known = sorted({*names, *(path.stem for path in (CONF_DIR / FOLDER).glob("*.yaml"))})
            raise ConfigError(
                f"experiment={value} is not in {conf / FOLDER}, which has {', '.join(names)}."
                f"{did_you_mean(value, known)}"
            )
        found += [word] if builtin else words_of(conf / FOLDER / f"{value}.yaml")
    return [*found, *typed]


def words_of(path: Path) -> list[str]:
    """Return the overrides that an experiment's file stands for.

    Raises
    ------
    ConfigError
        If it is not such a file.
    """
    content = read_yaml(path)
    defaults = content.pop("defaults", [])
    if not isinstance(defaults, list):
        raise ConfigError(f"{path}: defaults should be a list, as in conf/experiment")
    words = []
    for entry in defaults:
        if isinstance(entry, str) and entry != "_self_":
            words.append(f"{FOLDER}={entry}")
        elif isinstance(entry, dict) and len(entry) == 1:
            ((group, option),) = entry.items()
            words.append(f"{str(group).removeprefix('override ').lstrip('/')}={option}")
        elif entry != "_self_":
            raise ConfigError(
                f"{path}: {entry!r} in defaults should be the name of an experiment, or a group "
                "and its option, such as override /codec: nf4"
            )
    return [*words, *_values(content, "")]


def text_of(words: Sequence[str]) -> str:
    """Return the file of an experiment that stands for these overrides.

    Raises
    ------
    ConfigError
        If one is no override, or removes something.
    """
    defaults: list[Any] = []
    content: dict[str, Any] = {}
    for word in words:
        override = data_only.parsed(word)
        key, value = data_only.key_of(override), override.value()
        if word.startswith("~"):
            raise ConfigError(f"{word}: an experiment's file cannot remove an option")
        if (CONF_DIR / key).is_dir():
            defaults.append(value if key == FOLDER else {f"override /{key}": value})
            continue
        *above, last = _path(key)
        node = content
        for name in above:
            node = node.setdefault(name, {})
        node[last] = _plain(value)
    parts = [{"defaults": defaults}] if defaults else []
    parts += [{name: value} for name, value in content.items()]
    dumped = (
        yaml.safe_dump(part, sort_keys=False, allow_unicode=True, width=100) for part in parts
    )
    return HEAD + "".join(dumped)


def _path(key: str) -> list[str]:
    """Return the names of a key; what is below an open key is one name, whatever dots it has."""
    for above in OPEN:
        if key.startswith(f"{above}."):
            return [*above.split("."), key.removeprefix(f"{above}.")]
    return key.split(".")


def _plain(value: Any) -> Any:
    """Return a value of Hydra's parser as YAML has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _values(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in OPEN and value:
            yield from _values(value, f"{key}.")
        else:
            yield f"{key}={_written(value)}"


def _written(value: Any) -> str:
    """Return a value as Hydra reads it back."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_written(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return literal(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
