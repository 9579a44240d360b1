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
FILES = (".csv", ".json", ".jsonl", ".parquet", ".txt")  # also with a second ending, such as .gz
SHORT = {"model": ("huggingface", "model.path"), "data": ("table", "data.train.path")}
CLASSIFIERS = ("sequence_classification", "regression", "multi_label_classification")
ENDINGS = {"model": (), "data": FILES}


def expanded(words: Sequence[str], folder: Path | None) -> list[str]:
    """Return overrides with the short forms written out.

    Parameters
    ----------
    words : sequence of str
        One override each. In a sweep, several paths may stand where one may.
    folder : Path or None
        Where relative paths start. None: nowhere, as in a run's own overrides, which are read on
        every machine alike: no file is looked at.

    Raises
    ------
    ConfigError
        If a value has a slash and is neither a path that exists nor the id of something on the hub;
        or is neither an option of its group nor a path.
    """
    found = [one for word in words for one in _expanded(word, folder)]
    if folder is None and found != [*words]:
        _check_said(words)
    return found


def _check_said(words: Sequence[str]) -> None:
    """Refuse overrides of a run that leave open what only rows say."""
    said = dict(word.lstrip("+").partition("=")[::2] for word in words)
    if not _is_path("data", said.get("data", "")):
        return
    left = {"the test rows": "data.test.share=0.2"}
    if {"data.test.path", "data.test.share"} & {*said}:
        left = {}
    if said.get("task") in CLASSIFIERS:
        options = {"texts": "[text]", "label": "label", "labels": "[no,yes]"}
        if said["task"] == "regression":
            del options["labels"]
        left |= {
            f"the {name}": f"task.{name}={such}"
            for name, such in options.items()
            if f"task.{name}" not in said
        }
    if "data.client" in said and not any(key.startswith("data.partitioner") for key in said):
        left["the clients"] = (
            "federation.clients=3 data.partitioner.id=client_column "
            f"data.partitioner.column={said['data.client']}"
        )
    if left:
        raise ConfigError(
            f"data={said['data']}: {', '.join(left)} cannot be read here, where a run's words are "
            f"without its data; give {' '.join(left.values())}: `thinwire check`, with the same "
            "words, reads and prints them"
        )


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


def _expanded(word: str, folder: Path | None) -> Iterator[str]:
    key, equals, value = word.partition("=")
    if not equals or key.lstrip("+") not in SHORT:
        yield word
        return
    key = key.lstrip("+")
    texts = _texts(key, value, folder)
    paths = [text for text in texts if _is_path(key, text)]
    if not paths:
        _check_options(key, texts)
        yield word
        return
    if paths != texts:
        raise ConfigError(
            f"{key}={value}: a sweep over {key} should be of options alone, or of paths alone"
        )
    option, target = SHORT[key]
    yield f"{key}={option}"
    yield f"{target}={','.join(literal(_source(key, text, folder)) for text in texts)}"


def _texts(key: str, value: str, folder: Path | None) -> list[str]:
    """Return the text of a value without quotes; in a sweep those between commas.

    A path that exists may itself have a comma.
    """
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return [value[1:-1]]
    if folder is None or (_is_path(key, value) and (folder / Path(value).expanduser()).exists()):
        return [value]
    return value.split(",")


def _is_path(key: str, text: str) -> bool:
    return "/" in text or any(part in ENDINGS[key] for part in Path(text).suffixes)


def _source(key: str, text: str, folder: Path | None) -> str:
    """Return an absolute path that exists, or the id of something on the hub."""
    if folder is None:
        if Path(text).is_absolute() or HUB_ID.fullmatch(text):
            return text
        raise ConfigError(
            f"{key}={text}: a relative path is of the folder where a command is typed, and a run "
            f"has none: write the absolute path, {key}=/.../{Path(text).name}"
        )
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


def _check_options(key: str, texts: Sequence[str]) -> None:
    """Refuse what is neither an option nor a path, with both readings; sweeps have several."""
    options = sorted(path.stem for path in (CONF_DIR / key).glob("*.yaml"))
    for one in texts:
        if re.fullmatch(r"\w[\w.-]*", one) and one not in options:
            ending = " or an ending such as .csv" if key == "data" else ""
            raise ConfigError(
                f"{key}={one} is neither an option nor a path, which has a slash{ending}: "
                f"{key}=./{one}.{did_you_mean(one, options)} Known options: {', '.join(options)}"
            )
