"""Overrides are data: what a submitter may write, checked as text before anything acts on it.

A run's overrides reach the server and every node, and lie in folders that others may have written.
They may choose options and values, and name the strategy to build. They may not call a resolver,
set Hydra up, name files of configuration, or name any other object to build.
"""

import ast
import re
from functools import cache, lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fl_app.config.interpolation import check_text, texts
from fl_app.config.keys import CONF_DIR, ConfigError

LONGEST = 32_768  # characters of a run's overrides
DEEPEST = 32  # brackets within brackets
KEY = re.compile(r"[A-Za-z_][\w./-]*")
OPTION = re.compile(r"\w[\w.-]*")  # the name of a file in a folder of conf/

# Classes that strategy.inner, or a strategy in it, may name; and those of the package `strategies`.
FLOWER = "flwr.serverapp.strategy"
FLOWERS = (
    "Bulyan", "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping", "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM",
    "FedMedian", "FedProx", "FedTrimmedAvg", "FedYogi", "Krum", "MultiKrum", "QFedAvg",
)  # fmt: skip
OURS = "strategies"

TARGET = "_target_"
RESERVED = re.compile(r"_\w*_")  # _target_, _partial_, _args_ ...: what Hydra builds objects by

# Of a model's config: what names code, kernels, other checkpoints, or how weights are read. What is
# left are sizes, rates, switches and names of functions that transformers has in a table.
NO_CONFIG = re.compile(
    r"auto_map|architectures|trust_remote_code|.*implementation.*|.*kernel.*|quantization_config"
    r"|.*backbone.*|.*name_or_path|torch_dtype|dtype|custom_\w+|.*_(?:path|file|dir|url|repo)"
)
# Keys that have "kernel" in their names and are sizes, such as those of a convolution.
SIZES = re.compile(r"(?!use_)(?:\w+_)?kernel(?:_size|_dim|_stride)?s?")
WORD = re.compile(r"[\w.+-]*")


@lru_cache(maxsize=1024)
def parsed(word: str) -> Override:
    """Return the override that a word is, checked as text.

    Raises
    ------
    ConfigError
        Naming the key and what may stand there.
    """
    if len(word) > LONGEST:
        raise ConfigError(f"overrides should have at most {LONGEST} characters")
    _check_depth(word)
    try:
        override = OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError) as error:
        raise ConfigError(f"'{word}' is not a Hydra override (KEY=VALUE): {error}") from None
    _check_override(word, override)
    return override


def _check_depth(word: str) -> None:
    """Refuse a text with more brackets open at once than a configuration needs."""
    depth = 0
    for character in word:
        depth += (character in "[{(") - (character in "]})")
        if depth > DEEPEST:
            raise ConfigError(f"overrides: at most {DEEPEST} brackets may be open at once")


def _check_override(word: str, override: Override) -> None:
    key = override.key_or_group
    if not KEY.fullmatch(key.lstrip("/")):
        raise ConfigError(f"'{word}': {key!r} is no key of the configuration")
    key = key.lstrip("/")
    if re.match(r"hydra(?:[./]|$)", key):
        raise ConfigError(
            f"{key}: a run has no settings of Hydra; those of a sweep are given to "
            "`python -m fl_app.sweep` on its command line"
        )
    if override.package is not None:
        raise ConfigError(f"{key}@{override.package}: a group is chosen by its name alone: {key}=")
    if override.is_sweep_override():
        raise ConfigError(f"{key}: a run takes one value; several are for `python -m fl_app.sweep`")
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
    """Check a whole configuration, in which nothing is left to interpolate.

    Raises
    ------
    ConfigError
        Naming the key and what may stand there.
    """
    for key, text in texts("", config):
        if "${" in text:  # of a file, or made by joining; OmegaConf would read it again
            raise ConfigError(f"{key}: no interpolation may be left in a configuration")
    strategy = config.get("strategy")
    inner = strategy.get("inner") if isinstance(strategy, dict) else None
    if isinstance(inner, dict):
        check_strategy("strategy.inner", inner)
        config = {**config, "strategy": {**strategy, "inner": None}}  # type: ignore[dict-item]
    _check_reserved("", config)
    model = config.get("model")
    if isinstance(model, dict) and isinstance(model.get("config"), dict):
        _check_model_config("model.config", model["config"])


def check_strategy(key: str, arguments: dict[str, Any]) -> None:
    """Check what is to be built: a known class, with numbers and names, and maybe one in it.

    Raises
    ------
    ConfigError
        Naming the key and what may stand there.
    """
    target = arguments.get(TARGET)
    if not isinstance(target, str) or not _is_strategy(target):
        raise ConfigError(
            f"{key}.{TARGET}={target!r} is no Flower strategy: it should be one of {FLOWER} "
            f"({', '.join(FLOWERS)}), or a class of the package {OURS}, as in conf/strategy"
        )
    for name, value in arguments.items():
        where = f"{key}.{name}"
        if name == TARGET:
            continue
        if RESERVED.fullmatch(str(name)):
            raise ConfigError(f"{where}: of Hydra's names only {TARGET} may stand there")
        if name == "strategy" and isinstance(value, dict):
            check_strategy(where, value)
        elif isinstance(value, dict) or (isinstance(value, list) and any(map(_is_nested, value))):
            raise ConfigError(
                f"{where} should be a number, a name or a list of these: the only mapping in a "
                "strategy is `strategy`, the one that it is around"
            )


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _is_strategy(target: str) -> bool:
    module, _, name = target.rpartition(".")
    return (module == FLOWER and name in FLOWERS) or name in _own_classes().get(module, ())


@cache
def _own_classes() -> dict[str, frozenset[str]]:
    """Return the classes that each module of `strategies` defines, read from its source."""
    found = {}
    for path in (CONF_DIR.parent / OURS).glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = frozenset(part.name for part in body if isinstance(part, ast.ClassDef))
        found[f"{OURS}.{path.stem}"] = names
    return found


def _check_reserved(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            where = f"{key}.{name}" if key else str(name)
            if RESERVED.fullmatch(str(name)):
                raise ConfigError(
                    f"{where}: {name} may stand in strategy.inner alone, and in its `strategy`"
                )
            _check_reserved(where, part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_reserved(f"{key}.{index}", part)


def _check_model_config(key: str, value: Any) -> None:
    """Refuse what would have transformers fetch or run something."""
    if isinstance(value, dict):
        for name, part in value.items():
            if NO_CONFIG.fullmatch(str(name)) and not SIZES.fullmatch(str(name)):
                raise ConfigError(
                    f"{key}.{name} may not be set: no code, kernel or other checkpoint is named by "
                    "a model's config"
                )
            _check_model_config(f"{key}.{name}", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_model_config(f"{key}.{index}", part)
    elif isinstance(value, str) and not WORD.fullmatch(value):
        raise ConfigError(f"{key}={value!r} should be a word, without / and :")
