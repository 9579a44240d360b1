"""Compose the configuration that server, clients and sweeps share, from a Hydra override string."""

import copy
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fl_app.config import data_only
from fl_app.config.interpolation import resolved
from fl_app.config.keys import (
    CONF_DIR,
    OPEN,
    RECIPES,
    ConfigError,
    is_open,
    plain,
    unknown,
)
from fl_app.config.shorthand import expanded
from fl_app.config.types import check_types
from fl_app.faults.suggestions import did_you_mean

CUSTOM = "custom"  # the label of a run that is not one of the experiments of conf/experiment
UNNAMED = {"logger"}  # groups that do not change what an experiment computes
# Groups whose options are complete: Hydra would merge an experiment's values into the option that a
# word chooses, but the arguments of one codec or strategy mean nothing to another.
WHOLE = ("codec", "strategy")
IDENTITY = ("id", "_target_")  # a mapping that has one of these keys is complete by itself


def compose(overrides: str | Sequence[str] = "") -> DictConfig:
    """Compose the configuration that explicit overrides select, the same on every machine.

    Parameters, result and errors are those of ``fl_app.compose``, which also takes what is relative
    to the current folder and left to a table.
    """
    return _composed(joined(overrides))


def joined(overrides: str | Sequence[str]) -> str:
    """Return overrides as one line, in which each item of a sequence is quoted as in a shell.

    Raises
    ------
    TypeError
        If they are neither a string nor a sequence of strings.
    """
    if isinstance(overrides, str):
        return overrides
    if not isinstance(overrides, Sequence) or not all(isinstance(one, str) for one in overrides):
        raise TypeError(
            "overrides should be a string such as 'experiment=thin rounds=3', or a list of "
            f"strings with one override each, not {overrides!r}"
        )
    return shlex.join(overrides)


def words_of(overrides: str) -> list[str]:
    """Return the overrides of one line, each without a shell's quotes.

    Raises
    ------
    ConfigError
        If the line is too long, or a quote is left open.
    """
    if len(overrides) > data_only.LONGEST:
        raise ConfigError(f"overrides should have at most {data_only.LONGEST} characters")
    try:
        return shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides {overrides!r}: {error}") from None


@lru_cache(maxsize=8)
def _composed(overrides: str) -> DictConfig:
    words = expanded(words_of(overrides), None)
    for word in words:
        data_only.parsed(word)  # before Hydra, which acts on some overrides while it reads them
        if f"{_key(word)}.".startswith(tuple(f"{key}." for key in RECIPES)):
            raise ConfigError(
                f"{_key(word)} is where conf/ takes the default of optimizer.lr from: set "
                "optimizer.lr itself"
            )
    try:
        cfg, experiment = _compose(words)
    except ConfigError as error:
        raise ConfigError(_explained(str(error), words)) from None
    groups = _groups(words)
    if words != [*groups]:  # otherwise the configuration would be compared with itself
        check_types(cfg, _defaults(groups))
    chosen = {_key(word) for word in words if _chooses_group(word)} - UNNAMED
    with open_dict(cfg):
        cfg.experiment = experiment if not chosen or "experiment" in chosen else CUSTOM
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _compose(words: list[str]) -> tuple[DictConfig, str]:
    """Return the resolved configuration, and the name of the experiment."""
    options = tuple(word for word in words if _chooses_group(word))
    values = [word for word in words if not _chooses_group(word)]
    try:
        selected, experiment = _selected(options)
        cfg = copy.deepcopy(selected)
        for word in options:
            if experiment != CUSTOM and _key(word) in WHOLE and not word.startswith("~"):
                OmegaConf.update(cfg, _key(word), _selected((word,))[0][_key(word)], merge=False)
        for word in values:
            _set(cfg, word)
        config = _without_recipes(resolved(_with_method(plain(cfg))))
        data_only.check(config)
        cfg = OmegaConf.create(config)
        OmegaConf.set_struct(cfg, True)
        missing = sorted(OmegaConf.missing_keys(cfg))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error).partition("\nConfig search path")[0].partition("\nSet the env")[0]
        raise ConfigError(_with_options(text.strip())) from None
    if missing:
        raise ConfigError(f"{missing[0]} has no value")
    return cfg, experiment


def _set(cfg: DictConfig, word: str) -> None:
    """Set what an override says. They count in their order: a later one changes what is there."""
    spec = _spec(word)
    if spec is None:
        override = data_only.parsed(f"++{word}" if _adds(word) else word)
        ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
    else:
        OmegaConf.update(cfg, _key(word), spec, merge=False, force_add=True)


@lru_cache(maxsize=128)
def _selected(words: tuple[str, ...]) -> tuple[DictConfig, str]:
    """Return what conf/ has for the options of groups, before any value is set, and the experiment.

    This is nine tenths of Hydra's time, and runs differ more often by values than by options.
    Not resolved: a value that is set afterwards shows wherever it is interpolated.
    """
    with _without_outer_hydra(), hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("config", overrides=list(words), return_hydra_config=True)
    experiment = str(cfg.hydra.runtime.choices.get("experiment") or CUSTOM)
    with open_dict(cfg):
        cfg.pop("hydra")
    return cfg, experiment


def _with_method(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose adapter has the step size that its method was published with.

    The method's name is written as PEFT writes it, in capitals.
    """
    adapter = config.get("adapter")
    if isinstance(adapter, dict) and isinstance(adapter.get("method"), str):
        method = adapter["method"].upper().replace("-", "_")
        recipe = dict(adapter.get("recipe", {}))
        own = recipe.pop("methods", {}).get(method)
        recipe |= {"pretrained": own} if own else {}
        config["adapter"] = {**adapter, "method": method, "recipe": recipe}
    return config


def _without_recipes(config: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration without the defaults that its options were taken from."""
    found = dict(config)
    for group, key in (name.split(".") for name in RECIPES):
        if isinstance(found.get(group), dict):
            found[group] = {name: value for name, value in found[group].items() if name != key}
    return found


def _with_options(text: str) -> str:
    """Return Hydra's message with the options of the group that it is about, on one line."""
    found = re.search(r"(Could not (?:find|load)) '(\w+)/([^']*)'", text)
    if found is None or not (CONF_DIR / found[2]).is_dir():
        return text
    group, option = found[2], found[3]
    options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
    return (
        f"{group}={option} is not an option.{did_you_mean(option, options)} Known: "
        f"{', '.join(options)}"
    )


@contextmanager
def _without_outer_hydra() -> Iterator[None]:
    """Suspend the Hydra of a sweep: a process can have only one at a time."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def identity(cfg: Any) -> dict[str, Any]:
    """Return the part of a configuration that decides a run's bytes and metrics.

    It leaves out where and how results are written.

    Parameters
    ----------
    cfg : DictConfig or dict
        A configuration, or the content of a config.yaml.
    """
    where = ("output", "logger", "resume")
    return {key: value for key, value in plain(cfg).items() if key not in where}


def _key(word: str) -> str:
    return data_only.key_of(data_only.parsed(word))


def _spec(word: str) -> dict[str, Any] | None:
    """Return the complete mapping that a word gives for an open key; it replaces the default.

    Hydra would merge the two, but the arguments of one codec mean nothing to another. A partial
    mapping of a codec, partitioner or strategy, which has no id or ``_target_``, is merged.
    """
    key = _key(word)
    if key not in OPEN or word.startswith("~"):
        return None
    value = data_only.parsed(word).value()
    if not isinstance(value, dict):
        return None
    partial = key.startswith(("codec.", "strategy.")) or key.endswith(".partitioner")
    return value if not partial or any(name in value for name in IDENTITY) else None


def _adds(word: str) -> bool:
    """Tell whether a word may add keys without a plus: columns and arguments by name."""
    key = _key(word)
    return word.startswith(("data.", "adapter.args.")) and (is_open(key) or key in OPEN)


def _groups(words: list[str]) -> tuple[str, ...]:
    """Return the overrides that select an option of a group."""
    return tuple(word for word in words if _chooses_group(word) and not word.startswith("~"))


@lru_cache(maxsize=64)
def _defaults(groups: tuple[str, ...]) -> DictConfig:
    """Return the configuration of conf/ when only options of groups are selected."""
    return _compose([*groups])[0]


def _chooses_group(word: str) -> bool:
    return _is_group(_key(word))


@lru_cache(maxsize=1024)
def _is_group(key: str) -> bool:
    return (CONF_DIR / key).is_dir()


def _explained(error: str, words: list[str]) -> str:
    """Return what Hydra's message about an unknown key means here; other messages as they are.

    Hydra advises to add an unknown key with ``+``, which only open keys allow.
    """
    found = UNKNOWN.match(error)
    if found is None:
        return error
    key = found[1] or found[2]
    advice = re.search(r"^To append to your config .*", error, re.MULTILINE)
    rest = f"\n{advice[0]}" if advice and is_open(key) else ""
    return unknown(key, _defaults(_groups(words))) + rest


# Hydra's messages about a key that is not there.
UNKNOWN = re.compile(
    r"Could not override '([^']+)'\.|Could not delete from config\. '([^']+)' does not exist"
)
