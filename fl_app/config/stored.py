"""Read configurations and overrides from a run's folder: files that others may have written.

YAML is read with a bound on its size and depth, and without aliases, which can expand a few lines
to gigabytes. Nothing that is read is interpolated or built.
"""

from pathlib import Path
from typing import Any

import yaml

from fl_app.config.data_only import DEEPEST, LONGEST
from fl_app.config.keys import ConfigError

LARGEST = 1_000_000  # largest size of a config.yaml in bytes; a run's has about 5,000
MOST_EVENTS = 100_000
# libyaml's loader if available: it reads a hundred configurations in a second.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OPENS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
CLOSES = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def read_text(path: Path, most: int = LARGEST) -> str:
    """Return the text of a file of at most ``most`` bytes.

    Raises
    ------
    ConfigError
        If it is larger, or is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ConfigError(f"{path} should have at most {most} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, as plain dicts, lists and scalars.

    Raises
    ------
    ConfigError
        If it is too large or too deep, has aliases, or is not a mapping of plain values.
    """
    text = read_text(path)
    try:
        _check_events(path, text)
        found = yaml.load(text, LOADER) or {}  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} should hold a mapping")
    return found


def read_overrides(path: Path) -> str:
    """Return the overrides that a run was started with, as one line; `compose` checks them.

    Raises
    ------
    ConfigError
        If they are too long.
    """
    return read_text(path, LONGEST).strip()


def _check_events(path: Path, text: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, LOADER)):
        depth += isinstance(event, OPENS) - isinstance(event, CLOSES)
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}: aliases (*{event.anchor}) are not allowed")
        if depth > DEEPEST or count > MOST_EVENTS:
            raise ConfigError(
                f"{path} should have at most {DEEPEST} levels and {MOST_EVENTS} values"
            )
