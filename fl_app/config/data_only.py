"""Overrides are data: they are checked as text before anything acts on them.

A run's overrides reach the server and every node, and are read from folders that others may have
written. They may select options and values, and name the strategy to build. They may not call a
resolver, configure Hydra, name configuration files, or name any other object to build.
"""

import ast
import re
import shlex
from functools import cache, lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fl_app.config.interpolation import check_text, texts
from fl_app.config.keys import CONF_DIR, ConfigError
from fl_app.faults.suggestions import did_you_mean

LONGEST = 32_768  # largest number of characters in a run's overrides
DEEPEST = 32  # largest depth of nested brackets
KEY = re.compile(r"[A-Za-z_][\w./-]*")
OPTION = re.compile(r"\w[\w.-]*")  # the name of a file in a folder of conf/

# Classes that strategy.inner, or a strategy in it, may name, beside those of `strategies`.
FLOWER = "flwr.serverapp.strategy"
FLOWERS = (
    "Bulyan", "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping", "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM",
    "FedMedian", "FedProx", "FedTrimmedAvg", "FedYogi", "Krum", "MultiKrum", "QFedAvg",
)  # fmt: skip
OURS = "strategies"

TARGET = "_target_"
RESERVED = re.compile(r"_\w*_")  # Hydra builds objects from these: _target_, _partial_, _args_ ...

# Keys of a model's config that name code, kernels or other checkpoints, or say how weights are
# read. The others are sizes, rates, switches and names from transformers' tables of functions.
NO_CONFIG = re.compile(
    r"auto_map|architectures|trust_remote_code|.*implementation.*|.*kernel.*|quantization_config"
    r"|.*backbone.*|.*name_or_path|torch_dtype|dtype|custom_\w+|.*_(?:path|file|dir|url|repo)"
)
# Keys that contain "kernel" but are sizes, such as those of a convolution.
SIZES = re.compile(r"(?!use_)(?:\w+_)?kernel(?:_size|_dim|_stride)?s?")
WORD = re.compile(r"[\w.+-]*")


@lru_cache(maxsize=1024)
def parsed(word: str) -> Override:
    """Parse one override and check it as text.

    Raises
    ------
    ConfigError
        If it is not allowed; the message names the key and the allowed values.
    """
    if len(word) > LONGEST:
        raise ConfigError(f"overrides should have at most {LONGEST} characters")
    _check_depth(word)
    try:
        override = OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError) as error:
        raise ConfigError(
            f"'{word}' is not a Hydra override (KEY=VALUE): {error}{_hint(word)}"
        ) from None
    _check_override(word, override)
    return override


def _hint(word: str) -> str:
    """Return, for a message, how an override is written that could not be read."""
    if word.startswith("--"):
        return f"; write {word.lstrip('-').partition('=')[0]}=VALUE, without dashes"
    return _quoted(word)


def _quoted(word: str) -> str:
    """Return, for a message, how an override is written whose value is a text with such characters.

    Empty if it could not be read like that either.
    """
    key, _, value = word.partition("=")
    if not value:
        return ""
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    written = f'{key}="{text}"'
    try:
        OverridesParser.create().parse_override(written)
    except (HydraException, RecursionError):
        return ""
    return f". A value with such characters stands in quotes: {shlex.quote(written)}"


def key_of(override: Override) -> str:
    """Return the key of an override, or the group that it chooses from."""
    return str(override.key_or_group).lstrip("/")


def _check_depth(word: str) -> None:
    """Refuse a text whose brackets are nested deeper than a configuration needs."""
    depth = 0
    for character in word:
        depth += (character in "[{(") - (character in "]})")
        if depth > DEEPEST:
            raise ConfigError(f"overrides: at most {DEEPEST} brackets may be open at once")


def _check_override(word: str, override: Override) -> None:
    key = key_of(override)
    if not KEY.fullmatch(key):
        raise ConfigError(f"'{word}': {key!r} is not a key of the configuration")
    if re.match(r"hydra(?:[./]|$)", key):
        raise ConfigError(
            f"{key}: a run cannot set options of Hydra; give those of a sweep to `thinwire sweep` "
            "on its command line"
        )
    if override.package is not None:
        raise ConfigError(f"{key}@{override.package}: select a group by its name alone: {key}=")
    if override.is_sweep_override():
        raise ConfigError(
            f"{key}: a run takes one value; for a run of each use `thinwire sweep "
            f"{shlex.quote(word)}`{_quoted(word) if '/' in word or ' ' in word else ''}"
        )
    value = override.value()
    for name, text in texts(key, value):
        check_text(name, text)
    if (CONF_DIR / key).is_dir() and value is not None:
        chosen = value if isinstance(value, list) else [value]
        if not all(OPTION.fullmatch(str(one)) for one in chosen):
            raise ConfigError(
                f"{key}={value!r} should be the name of a file in conf/{key}, without folders"
            )


def check(config: dict[str, Any]) -> None:
    """Check a whole configuration after interpolation.

    Raises
    ------
    ConfigError
        If a value is not allowed; the message names the key and the allowed values.
    """
    for key, text in texts("", config):
        if "${" in text:  # from a file, or made by joining; OmegaConf would interpolate it again
            raise ConfigError(f"{key}: interpolation must not remain in a configuration")
    strategy = config.get("strategy")
    if isinstance(strategy, dict):
        for half, check_half in (("inner", check_strategy), ("local", check_local)):
            if (arguments := strategy.get(half)) is None:
                continue
            if not isinstance(arguments, dict):
                raise ConfigError(f"strategy.{half}={arguments!r} should be of type mapping")
            check_half(f"strategy.{half}", arguments)
        config = {**config, "strategy": {**strategy, "inner": None, "local": None}}
    _check_reserved("", config)
    for group in ("model", "adapter"):  # a larger model's, of adapter=ligo
        part = config.get(group)
        if isinstance(part, dict) and isinstance(part.get("config"), dict):
            _check_model_config(f"{group}.config", part["config"])


def check_strategy(key: str, arguments: dict[str, Any]) -> None:
    """Check the arguments of a strategy: its class, numbers and names, and a strategy in it.

    Parameters
    ----------
    key : str
        Where the arguments stand in the configuration, for messages.
    arguments : dict
        ``_target_`` and the arguments of that class.

    Raises
    ------
    ConfigError
        If a value is not allowed; the message names the key and the allowed values.
    """
    target = arguments.get(TARGET)
    if not isinstance(target, str) or not _is_strategy(target):
        raise ConfigError(
            f"{key}.{TARGET}={target!r} is not a Flower strategy: it should be one of {FLOWER} "
            f"({', '.join(FLOWERS)}), or a class of the package {OURS}, as in conf/strategy."
            f"{did_you_mean(target, _strategies())}"
        )
    _check_arguments(key, arguments)


def check_local(key: str, arguments: dict[str, Any]) -> None:
    """Check the client's half of a method: a LocalMethod of `strategies`, with plain arguments.

    Its module is the only one that a run makes a node import. The arguments are its own, as data of
    any depth: nothing but the class builds something of them.

    Raises
    ------
    ConfigError
        If it is not allowed; the message names the key and the allowed values.
    """
    target = arguments.get(TARGET)
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if name not in _local_methods().get(module, ()):
        known = [f"{where}.{one}" for where, names in _local_methods().items() for one in names]
        raise ConfigError(
            f"{key}.{TARGET}={target!r} is not a client's half of a method: it should be one of "
            f"{', '.join(sorted(known))}.{did_you_mean(target, known)}"
        )
    for name, value in arguments.items():
        if name != TARGET:
            _check_reserved(key, {name: value})


def _check_arguments(key: str, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        where = f"{key}.{name}"
        if name == TARGET:
            continue
        if RESERVED.fullmatch(str(name)):
            raise ConfigError(f"{where}: of Hydra's names only {TARGET} is allowed here")
        if name == "strategy" and isinstance(value, dict):
            check_strategy(where, value)
        elif isinstance(value, dict) or (isinstance(value, list) and any(map(_is_nested, value))):
            raise ConfigError(
                f"{where} should be a number, a name or a list of these: the only mapping in a "
                "strategy is `strategy`, the strategy that it wraps"
            )


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _strategies() -> list[str]:
    """Return the classes that ``strategy.inner`` may name."""
    ours = [f"{module}.{name}" for module, names in _own_classes().items() for name in names]
    return [*(f"{FLOWER}.{name}" for name in FLOWERS), *ours]


def _is_strategy(target: str) -> bool:
    module, _, name = target.rpartition(".")
    return (module == FLOWER and name in FLOWERS) or name in _own_classes().get(module, ())


@cache
def _local_methods() -> dict[str, frozenset[str]]:
    """Return the subclasses of LocalMethod in each module of `strategies`."""
    found = {}
    for module, bases in _bases().items():
        known = {"LocalMethod"}
        for name, above in bases.items():  # a base is defined before its subclasses
            if known & above:
                known.add(name)
        found[module] = frozenset(known & {*bases})
    return found


def _own_classes() -> dict[str, frozenset[str]]:
    """Return the classes defined in each module of `strategies`."""
    return {module: frozenset(bases) for module, bases in _bases().items()}


@cache
def _bases() -> dict[str, dict[str, set[str]]]:
    """Return the base classes of each class of `strategies`, by name, read from the source."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in (CONF_DIR.parent / OURS).glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        found[f"{OURS}.{path.stem}"] = {
            part.name: {base.id for base in part.bases if isinstance(base, ast.Name)}
            for part in body
            if isinstance(part, ast.ClassDef)
        }
    return found


def _check_reserved(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            where = f"{key}.{name}" if key else str(name)
            if RESERVED.fullmatch(str(name)):
                raise ConfigError(
                    f"{where}: {name} is allowed only in strategy.inner, in its `strategy`, and in "
                    "strategy.local itself"
                )
            _check_reserved(where, part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_reserved(f"{key}.{index}", part)


def _check_model_config(key: str, value: Any) -> None:
    """Refuse values that would make transformers download or run something."""
    if isinstance(value, dict):
        for name, part in value.items():
            if NO_CONFIG.fullmatch(str(name)) and not SIZES.fullmatch(str(name)):
                raise ConfigError(
                    f"{key}.{name} may not be set: a model's config cannot name code, kernels or "
                    "other checkpoints"
                )
            _check_model_config(f"{key}.{name}", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_model_config(f"{key}.{index}", part)
    elif isinstance(value, str) and not WORD.fullmatch(value):
        raise ConfigError(f"{key}={value!r} should be a word, without / and :")
