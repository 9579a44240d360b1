"""Check the keys and types of a configuration against the files in conf/."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_app.config.keys import NAMES, NULLABLE, OPEN, ConfigError, is_open, unknown


def check_types(
    cfg: DictConfig, defaults: DictConfig, path: str = "", root: DictConfig | None = None
) -> None:
    """Refuse keys that no file in conf/ has, and values of another type than the file's.

    Parameters
    ----------
    cfg : DictConfig
        The part of the configuration at ``path``.
    defaults : DictConfig
        The same part as conf/ has it.
    path : str
        Its key; "" for the whole configuration.
    root : DictConfig or None
        The whole configuration as conf/ has it; None: ``defaults`` is.

    Raises
    ------
    ConfigError
        If a key or type is wrong; the message names the key and the allowed values.
    """
    prefix = f"{path}." if path else ""
    root = defaults if root is None else root
    for key in map(str, defaults):
        if key not in cfg and path not in OPEN:
            raise ConfigError(f"{prefix}{key} cannot be removed")
    for key in map(str, cfg):
        name = prefix + key
        if is_open(name):
            continue
        if key not in defaults:
            raise ConfigError(unknown(name, root))
        value, default = cfg[key], defaults[key]
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            check_types(value, default, name, root)
        elif not _same_kind(name, value, default):
            kind = "mapping" if isinstance(default, DictConfig) else type(default).__name__
            raise ConfigError(
                f"{name}={value!r} should be of type {kind}, as in conf/: {name}={default!r}"
            )


def _same_kind(name: str, value: Any, default: Any) -> bool:
    if default is None or OmegaConf.is_list(default) or name in NAMES:
        return True  # fl_app.preflight checks what may be in them
    if value is None:
        return name in NULLABLE
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))
