"""From a Hydra override string to the one configuration that server, clients and sweeps share.

Every option and its default lives in ``conf/``. Keys and types are checked here, values against
what the code knows in ``fl_app.preflight``.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

CONF_DIR = Path(__file__).parent.parent / "conf"

SPLITS = ("train", "test", "unseen", "public")  # of a table: see fl_app.data.table

# Below these keys an override may add keys of its own: they are arguments of a Flower strategy,
# of a Hugging Face model configuration, a codec or a partitioner, or columns of data, and are
# checked by those.
OPEN = (
    *("strategy.inner", "model.config", "codec.up", "codec.down", "data.partitioner"),
    *(f"data.{split}.{key}" for split in SPLITS for key in ("columns", "drop")),
)

CUSTOM = "custom"  # the label of a run that is none of the experiments
UNNAMED = {"logger"}  # groups that change nothing of what an experiment is
IDENTITY = ("id", "_target_")  # what makes a mapping a whole one, where it says what it is for
# A value in conf/, but null turns it off.
NULLABLE = (
    *("model.sha256", "model.tokenizer", "model.visual_path", "target.value", "data.target"),
    *("task.average_over", "privacy.epsilon", "federation.max_update_rms"),
    *(f"data.{split}.{key}" for split in SPLITS for key in ("name", "limit")),
)
NAMES = ("adapter.target_modules",)  # a name in conf/, but may be a list of names, as in PEFT


class ConfigError(ValueError):
    """An override that names no option, or gives one an impossible value."""


@lru_cache(maxsize=8)
def compose(overrides: str = "") -> DictConfig:
    """Compose the configuration that ``overrides`` asks for.

    Parameters
    ----------
    overrides : str
        Hydra overrides, separated by blanks and quoted as in a shell:
        ``"experiment=fedavg_lora rounds=3 optimizer.lr=1e-3"``.

    Returns
    -------
    DictConfig
        Resolved and read-only; ``experiment`` is a label: the name of the experiment, or "custom"
        where groups were chosen without one.

    Raises
    ------
    ConfigError
        For an unknown group option, key or value; the message names the key and the alternatives.
    """
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides {overrides!r}: {error}") from None
    try:
        cfg, experiment = _compose(words)
    except ConfigError as error:
        raise ConfigError(_explained(str(error), words)) from None
    groups = _groups(words)
    if words != [*groups]:  # or the configuration would be compared with itself
        _check_types(cfg, _defaults(groups))
    chosen = {_key(word) for word in words if _chooses_group(word)} - UNNAMED
    with open_dict(cfg):
        cfg.experiment = experiment if not chosen or "experiment" in chosen else CUSTOM
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _compose(words: list[str]) -> tuple[DictConfig, str]:
    """Return the resolved configuration, and the name of the experiment."""
    specs = {_key(word): spec for word in words if (spec := _spec(word))}
    words = [word for word in words if not _spec(word)]
    try:
        with _no_hydra_around(), hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = hydra.compose("config", overrides=words, return_hydra_config=True)
        for key, spec in specs.items():
            OmegaConf.update(cfg, key, spec, merge=False, force_add=True)
        experiment = str(cfg.hydra.runtime.choices.get("experiment") or CUSTOM)
        with open_dict(cfg):
            cfg.pop("hydra")
        OmegaConf.resolve(cfg)
        missing = sorted(OmegaConf.missing_keys(cfg))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error).partition("\nConfig search path")[0].partition("\nSet the env")[0]
        if of_a_list := re.search(r"Could not load '(\w+)/", text):  # where Hydra lists none
            options = sorted(path.stem for path in (CONF_DIR / of_a_list[1]).glob("*.yaml"))
            text += f"\nAvailable options in '{of_a_list[1]}': {options}"
        raise ConfigError(text.strip()) from None
    if missing:
        raise ConfigError(f"{missing[0]} has no value")
    return cfg, experiment


@contextmanager
def _no_hydra_around() -> Iterator[None]:
    """Set aside the Hydra of a sweep, of which there can be only one at a time."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def identity(cfg: Any) -> dict[str, Any]:
    """Return what decides a run's bytes and metrics: all but where and how they are written.

    ``cfg`` is a configuration, or what was read from its config.yaml.
    """
    where = ("output", "logger", "resume")
    return {key: value for key, value in plain(cfg).items() if key not in where}


def plain(node: Any) -> Any:
    """Return a part of a configuration as plain dicts, lists and scalars."""
    return OmegaConf.to_container(OmegaConf.create({"node": node}), resolve=True)["node"]  # type: ignore[call-overload,index]


def _key(word: str) -> str:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(f"'{word}' is not a Hydra override (KEY=VALUE): {error}") from None
    return override.key_or_group.lstrip("/")


def _spec(word: str) -> dict[str, Any] | None:
    """Return the whole mapping that a word gives for an open key, to replace the one there.

    Hydra would merge the two, and the arguments of one codec are nothing to another. A part of a
    codec, partitioner or strategy, which does not say of which, is merged.
    """
    key = _key(word)
    if key not in OPEN or word.startswith("~"):
        return None
    value = OverridesParser.create().parse_override(word).value()
    if not isinstance(value, dict):
        return None
    partial = key.startswith(("codec.", "strategy.")) or key.endswith(".partitioner")
    return value if not partial or any(name in value for name in IDENTITY) else None


def _groups(words: list[str]) -> tuple[str, ...]:
    """Return the overrides that choose an option of a group."""
    return tuple(word for word in words if _chooses_group(word) and not word.startswith("~"))


@lru_cache(maxsize=64)
def _defaults(groups: tuple[str, ...]) -> DictConfig:
    """Return what conf/ says where only options of groups are chosen."""
    return _compose([*groups])[0]


def _chooses_group(word: str) -> bool:
    return (CONF_DIR / _key(word)).is_dir()


def _is_open(key: str) -> bool:
    return key.startswith(tuple(f"{above}." for above in OPEN))


def _explained(error: str, words: list[str]) -> str:
    """Return Hydra's message, with its advice to add a key only where one may, and known keys."""
    lines = []
    for line in error.splitlines():
        advised = re.match(r"To append to your config use \+([\w.]+)", line)
        if advised is None or _is_open(advised[1]):
            lines.append(line)
    defaults = _defaults(_groups(words))
    for key in map(_key, words):
        if OmegaConf.select(defaults, key, default=_MISSING) is _MISSING:
            parent = key.rpartition(".")[0]
            while parent and OmegaConf.select(defaults, parent) is None:
                parent = parent.rpartition(".")[0]
            node = OmegaConf.select(defaults, parent) if parent else defaults
            if isinstance(node, DictConfig):
                lines.append(f"Keys of {parent or 'the configuration'}: {_known(node, parent)}")
                break
    return "\n".join(lines)


def _known(node: DictConfig, path: str) -> list[str]:
    """Return the keys of ``node``; the experiment is a group, but no key of the configuration."""
    return sorted([*map(str, node), *([] if path else ["experiment"])])


_MISSING = object()


def _check_types(cfg: DictConfig, defaults: DictConfig, path: str = "") -> None:
    """Refuse keys that no file in conf/ has, and values of another type than the file's."""
    prefix = f"{path}." if path else ""
    for key in map(str, defaults):
        if key not in cfg and path not in OPEN:
            raise ConfigError(f"{prefix}{key} cannot be removed")
    for key in map(str, cfg):
        name = prefix + key
        if _is_open(name):
            continue
        if key not in defaults:
            raise ConfigError(f"'{name}' is not an option. Known here: {_known(defaults, path)}")
        value, default = cfg[key], defaults[key]
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _check_types(value, default, name)
        elif not _same_kind(name, value, default):
            kind = "mapping" if isinstance(default, DictConfig) else type(default).__name__
            raise ConfigError(
                f"{name}={value!r} should be of type {kind}, as in conf/: {name}={default!r}"
            )


def _same_kind(name: str, value: Any, default: Any) -> bool:
    if default is None or OmegaConf.is_list(default) or name in NAMES:
        return True  # what may be in them is said in fl_app.preflight
    if value is None:
        return name in NULLABLE
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))
