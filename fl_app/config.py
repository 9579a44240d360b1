"""From a Hydra override string to the one configuration that server, clients and sweeps share.

Every option and its default lives in ``conf/``. Keys and types are checked here, values against
what the code knows in ``fl_app.preflight``.
"""

import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

CONF_DIR = Path(__file__).parent.parent / "conf"

# Below these keys an override may add keys of its own: they are arguments of a Flower strategy,
# of a Hugging Face model configuration or of a codec, and are checked by those.
OPEN = ("strategy.inner", "model.config", "codec.up", "codec.down")


NULLABLE = ("model.sha256", "target.value")  # a value in conf/, but null turns it off


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
        Resolved and read-only; ``experiment`` holds the name of the chosen experiment.

    Raises
    ------
    ConfigError
        For an unknown group option, key or value; the message names the key and the alternatives.
    """
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides {overrides!r}: {error}") from None
    defaults = _compose([word for word in words if _chooses_group(word)])
    try:
        cfg = _compose(words)
    except ConfigError as error:
        raise ConfigError(f"{error}{_alternatives(words, defaults)}") from None
    experiment = cfg.hydra.runtime.choices.get("experiment")
    for tree in (cfg, defaults):
        with open_dict(tree):
            tree.pop("hydra")
    _check_types(cfg, defaults)
    with open_dict(cfg):
        cfg.experiment = str(experiment)
    OmegaConf.resolve(cfg)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _compose(words: list[str]) -> DictConfig:
    try:
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return hydra.compose("config", overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error).partition("\nConfig search path")[0].partition("\nSet the env")[0]
        raise ConfigError(text.strip()) from None


def plain(node: Any) -> Any:
    """Return a part of a configuration as plain dicts, lists and scalars."""
    return OmegaConf.to_container(OmegaConf.create({"node": node}), resolve=True)["node"]  # type: ignore[call-overload,index]


def _key(word: str) -> str:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(f"'{word}' is not a Hydra override (KEY=VALUE): {error}") from None
    return override.key_or_group.lstrip("/")


def _chooses_group(word: str) -> bool:
    return (CONF_DIR / _key(word)).is_dir()


def _alternatives(words: list[str], defaults: DictConfig) -> str:
    for key in map(_key, words):
        if OmegaConf.select(defaults, key, default=_MISSING) is _MISSING:
            parent = key.rpartition(".")[0]
            node = OmegaConf.select(defaults, parent) if parent else defaults
            if isinstance(node, DictConfig):
                known = sorted(str(k) for k in node if k != "hydra")
                return f"\nKeys of {parent or 'the configuration'}: {known}"
    return ""


_MISSING = object()


def _check_types(cfg: DictConfig, defaults: DictConfig, prefix: str = "") -> None:
    """Refuse keys that no file in conf/ has, and values of another type than the file's."""
    for key in map(str, cfg):
        path = f"{prefix}{key}"
        if path.startswith(OPEN):
            continue
        if key not in defaults:
            known = sorted(str(k) for k in defaults)
            raise ConfigError(f"'{path}' is not an option. Known here: {known}")
        if OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_interpolation(defaults, key):
            continue
        value, default = cfg[key], defaults[key]
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _check_types(value, default, f"{path}.")
        elif value is None and path in NULLABLE:
            continue
        elif default is not None and not _same_kind(value, default):
            raise ConfigError(
                f"{path}={value!r} should be of type {type(default).__name__}, as in conf/: "
                f"{path}={default!r}"
            )


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str) or OmegaConf.is_list(default):
        # target_modules is a name or a list of names, as in PEFT
        return isinstance(value, str) or OmegaConf.is_list(value)
    return isinstance(value, type(default))
