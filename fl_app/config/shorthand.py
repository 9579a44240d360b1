"""Short forms of the command line: a path where a group's option could stand.

``model=PATH`` stands for ``model=huggingface model.path=PATH``, and ``data=PATH`` for
``data=table data.train.path=PATH``. Relative paths are those of the current folder, and become
absolute here, so that a run's overrides mean the same in every process.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fl_app.config.keys import CONF_DIR, ConfigError
from fl_app.faults.suggestions import did_you_mean

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FILES = (".csv", ".json", ".jsonl", ".parquet")  # also with a second ending, such as .gz
SHORT = {"model": ("huggingface", "model.path"), "data": ("table", "data.train.path")}
ENDINGS = {"model": (), "data": FILES}


def expanded(words: Sequence[str], folder: Path) -> list[str]:
    """Return overrides with the short forms written out.

    Parameters
    ----------
    words : sequence of str
        One override each.
    folder : Path
        Where relative paths start.

    Raises
    ------
    ConfigError
        If a value has a slash and is neither a path that exists nor the id of something on the hub;
        or is neither an option of its group nor a path.
    """
    return [one for word in words for one in _expanded(word, folder)]


def typed_out(overrides: str, folder: Path) -> str:
    """Return `expanded` of overrides that stand in one line, quoted as in a shell."""
    try:
        words = shlex.split(overrides)
    except ValueError:
        return overrides  # composing them says what is wrong
    found = expanded(words, folder)
    return overrides if found == words else shlex.join(found)


def literal(text: str) -> str:
    """Return a text as Hydra reads it back, whatever characters it has."""
    return '"' + re.sub(r'(\\*)(?="|$)', lambda found: found[1] * 2, text).replace('"', '\\"') + '"'


def _expanded(word: str, folder: Path) -> Iterator[str]:
    key, equals, value = word.partition("=")
    if not equals or key.lstrip("+") not in SHORT:
        yield word
        return
    key = key.lstrip("+")
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    if not _is_path(key, text):
        _check_option(key, text)
        yield word
        return
    option, target = SHORT[key]
    yield f"{key}={option}"
    yield f"{target}={literal(_source(key, text, folder))}"


def _is_path(key: str, text: str) -> bool:
    return "/" in text or any(part in ENDINGS[key] for part in Path(text).suffixes)


def _source(key: str, text: str, folder: Path) -> str:
    """Return an absolute path that exists, or the id of something on the hub."""
    path = folder / Path(text).expanduser()
    if path.exists():
        return str(path.absolute())
    if key == "model" and text.startswith("embedded:"):
        return text
    if HUB_ID.fullmatch(text) and not any(part in FILES for part in Path(text).suffixes):
        return text
    what = "file or folder" if key == "data" else "folder"
    raise ConfigError(
        f"{key}={text}: there is no {what} {path}; an id of the hub has the form ORGANISATION/NAME"
    )


def _check_option(key: str, text: str) -> None:
    """Refuse what is neither an option nor a path, with both readings; sweeps have several."""
    options = sorted(path.stem for path in (CONF_DIR / key).glob("*.yaml"))
    for one in text.split(","):
        if re.fullmatch(r"\w[\w.-]*", one) and one not in options:
            ending = " or an ending such as .csv" if key == "data" else ""
            raise ConfigError(
                f"{key}={one} is neither an option nor a path, which has a slash{ending}: "
                f"{key}=./{one}.{did_you_mean(one, options)} Known options: {', '.join(options)}"
            )
