"""Group runs that differ only in the seed to configurations, each with a short label."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl_app.config import CONF_DIR, OPEN, identity
from fl_app.runs.place import without_places
from fl_app.runs.read import Run

# Options that do not make another configuration: the repetition, where results go, how long to
# wait, and the target, which has a column of its own.
NOT_COMPARED = (
    *("seed", "experiment", "output", "logger", "resume", "target", "data.target"),
    *("federation.node_timeout", "federation.reply_timeout"),
)

# Options that are the run's seed where nothing else is said.
SEEDS = ("strategy.inner.seed", "strategy.inner.master", "strategy.local.master")

# Options that runs of earlier versions lack, and the values that mean what these runs did: with
# them a configuration is still the same. Whoever adds an option to conf/ adds it here. Of a group
# of options that came together, those that turn it off are named: the others mean nothing then.
ADDED: dict[str, Any] = {
    "output.base": "reference",
    "data.validation_documents": 0,
    "data.validation_problems": 0,
    "data.source_documents": 0,
    "data.source_problems": 0,
    "data.marks": 0,
    "data.source": {"path": None},
    "data.validation": {"path": None, "share": None},
    "data.client": None,
    "data.test.share": None,
    "data.formats": {},
    "federation.sampling": "partitions",
    "link": {"id": "none"},
    "data.empty": {},
    "data.sample_by": "paragraph",
    "task.problem_type": "single_label_classification",
    "model.head": "pretrained",
    "task.label_is": "index",
    "turns": [],
    "augment": {"id": "none"},
    "strategy.local.max_difference": None,
}

# Options whose default is another one today, and what it was (ANY: one of several texts): a run
# that began with it goes on with it.
ANY = object()
FORMER: dict[str, Any] = {"optimizer.lr": 7.0e-3, "adapter.eta": 1.0e-3, "task.prompt": ANY}

GROUPS = frozenset(path.name for path in CONF_DIR.iterdir() if path.is_dir())
NOT_NAMED = ("seed", "output", "logger", "target")


@dataclass
class Configuration:
    """One configuration and its runs.

    Attributes
    ----------
    config : dict
        The options that are compared, nested.
    words : tuple of str or None
        The overrides that were typed, without those that name a repetition; None if unknown.
    runs : list of Run
        Its runs, by seed.
    label : str
        Its name among the others.
    """

    config: dict[str, Any]
    words: tuple[str, ...] | None
    runs: list[Run] = field(default_factory=list)
    label: str = ""

    @property
    def method(self) -> str:
        """See ``Run.method``."""
        return self.runs[0].method


def group(runs: Sequence[Run]) -> list[Configuration]:
    """Return the configurations of ``runs``, labelled, in the order of their first run.

    Runs with the same overrides are one configuration even if an older one lacks options that did
    not exist yet.
    """
    found: list[Configuration] = []
    # Runs with the most options come first, so that older ones are compared with complete ones.
    for run in sorted(runs, key=lambda run: (-len(flat(run.config)), str(run.path))):
        config, words = _compared(run.config), _words(run.overrides)
        for one in found:
            if one.config == config or (one.words == words and _compatible(one.config, config)):
                one.runs.append(run)
                one.words = one.words or words
                break
        else:
            found.append(Configuration(config, words, [run]))
    order = {run.path: i for i, run in enumerate(runs)}
    for one in found:
        one.runs.sort(key=lambda run: (run.seed, order[run.path]))
    found.sort(key=lambda one: min(order[run.path] for run in one.runs))
    for test in dict.fromkeys(one.runs[0].judged_by for one in found):
        _label([one for one in found if one.runs[0].judged_by == test])
    return found


def digest(config: Any) -> str:
    """Return the SHA-256 of the options that make a configuration, as canonical JSON, in hex.

    Runs that differ only in the seed, their label, the target, or where results go, have the same
    digest. So has a configuration before and after an option of ``ADDED`` came.

    Parameters
    ----------
    config : DictConfig or dict
        A configuration, or the content of a config.yaml.
    """
    options = _without_added(_compared(identity(config)))
    text = json.dumps(options, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_added(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without_added(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if not _is_as_before(f"{prefix}{key}", value)
    }


def _is_as_before(name: str, value: Any) -> bool:
    """Tell whether ``name`` is one of ``ADDED``, and its value means what there was before."""
    if name not in ADDED:
        return False
    off = ADDED[name]
    if _is_group(name):
        return isinstance(value, dict) and all(value.get(key) == off[key] for key in off)
    return bool(value == off)


def _is_group(name: str) -> bool:
    """Tell whether an entry of ``ADDED`` is a group of options, and not one open mapping."""
    return isinstance(ADDED[name], dict) and name not in OPEN


def with_added(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an earlier run, with those of ``ADDED`` as they meant nothing there.

    Parameters
    ----------
    then, now : dict
        Options by dotted names, see `flat`: of the earlier run, and of today.
    """
    added: dict[str, Any] = {}
    for name, off in ADDED.items():
        if not _is_group(name):
            if name in now:
                added[name] = compact(off) if isinstance(off, dict | list) else off
            continue
        group = {key: value for key, value in now.items() if key.startswith(f"{name}.")}
        if group and not any(key.startswith(f"{name}.") for key in then):
            added |= group | {f"{name}.{key}": value for key, value in off.items()}
    return added | then


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return options by dotted names; the value of an open key, such as a codec, is one text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in OPEN:
            found |= flat(value, f"{name}.")
        else:
            found[name] = compact(value) if isinstance(value, (dict, list)) else value
    return found


def compact(value: Any) -> str:
    """Return a nested value on one line: ``entropy(delta + uniform(error=0.3))``."""
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    if not isinstance(value, dict):
        return str(value)
    name = str(value.get("id") or value.get("_target_", "")).rpartition(".")[2]
    if name == "chain" and isinstance(value.get("links"), list):
        return " + ".join(map(compact, value["links"]))
    rest = ", ".join(
        compact(part) if key == "inner" else f"{key}={compact(part)}"
        for key, part in value.items()
        if key not in ("id", "_target_")
    )
    return name + (f"({rest})" if rest or not name else "")


def differing(runs: Iterable[Run]) -> list[str]:
    """Return the options in which the runs differ, in their order in conf/.

    A run that lacks the option does not count.
    """
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in flat(_compared(run.config)).items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key, found in values.items() if len(found) > 1]


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that make a configuration; a seed that is the run's is that of seed 0."""
    return _kept(config, config.get("seed"))


def _kept(config: dict[str, Any], seed: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            value = _kept(value, seed, f"{name}.")
        elif name in SEEDS and value == seed:
            value = 0
        if name not in NOT_COMPARED:
            found[key] = value
    return found


def _compatible(one: Any, other: Any) -> bool:
    """Tell whether two values agree in all keys that both have."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_compatible(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_compatible, one, other))
    return bool(one == other)


def _words(overrides: str | None) -> tuple[str, ...] | None:
    """Return the overrides that were typed, without those that name a repetition."""
    if overrides is None:
        return None
    kept = [word for word in _split(overrides) if key_of(word).partition(".")[0] not in NOT_NAMED]
    return tuple(sorted(kept, key=lambda word: key_of(word) != "experiment"))


def _split(overrides: str) -> list[str]:
    try:
        return shlex.split(overrides)
    except ValueError:
        return overrides.split()


def without_output(overrides: str | None) -> str | None:
    """Return overrides without those that say where results go; other places are cut short."""
    if overrides is None:
        return None
    kept = [
        without_places(word) for word in _split(overrides) if not key_of(word).startswith("output.")
    ]
    return shlex.join(kept)


def key_of(word: str) -> str:
    """Return the key of an override."""
    return word.partition("=")[0].lstrip("+~/")


def _label(found: list[Configuration]) -> None:
    """Give each configuration of one data set a unique label: what differs from the others."""
    options = [flat(one.config) for one in found]
    typed = [set(one.words) for one in found if one.words]
    common = set.intersection(*typed) if len(typed) > 1 else set()
    same = {word for word in set().union(*typed) if _is_same(word, options)}
    for one in found:
        one.label = ", ".join(_short(word) for word in _own(one, common | same))
    for one, option in zip(found, options, strict=True):
        one.label = one.label or _as_the_others_say(option, found) or one.runs[0].experiment
    for one in _ambiguous(found):  # the same last key, of other options
        one.label = ", ".join(_own(one, common | same)) or one.label
    clashing = _ambiguous(found)
    for key in differing(run for one in clashing for run in one.runs[:1]):
        for one in _ambiguous(clashing):
            option = flat(one.config)
            one.label += f", {key}={option[key]}" if key in option else ""
    for number, one in enumerate(_ambiguous(found), start=1):
        one.label += f" ({number})"


def _own(one: Configuration, left_out: set[str]) -> list[str]:
    return [word for word in one.words or () if word not in left_out]


def _is_same(word: str, options: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all configurations agree in what an override names, or it is not compared."""
    key = key_of(word)
    if key == "experiment":
        return False
    if any(key == name or key.startswith(f"{name}.") for name in NOT_COMPARED):
        return True
    values = [
        {name: value for name, value in option.items() if f"{name}.".startswith(f"{key}.")}
        for option in options
    ]
    return len(options) > 1 and bool(values[0]) and all(value == values[0] for value in values)


def _as_the_others_say(option: dict[str, Any], found: Sequence[Configuration]) -> str:
    """Return what distinguishes a configuration for which nothing of its own was typed.

    Those are its values of the options that were typed for the others. It is empty if they chose
    a group's file, whose options have no short name.
    """
    keys = list(dict.fromkeys(key_of(word) for one in found for word in one.words or ()))
    known = [key for key in keys if key in option]
    if any(key == "experiment" or key in GROUPS for key in keys):
        return ""
    differs = [key for key in known if len({repr(flat(one.config).get(key)) for one in found}) > 1]
    return ", ".join(_short(f"{key}={option[key]}") for key in differs)


def _ambiguous(found: list[Configuration]) -> list[Configuration]:
    count = Counter(one.label for one in found)
    return [one for one in found if count[one.label] > 1]


def _short(word: str) -> str:
    """Shorten an override: only the name for a group's choice, only the last key for an option."""
    key, equals, value = word.partition("=")
    if key_of(word) == "experiment" or key_of(word) in GROUPS:
        return value or word
    return f"{key_of(key).rpartition('.')[2]}{equals}{value}"
