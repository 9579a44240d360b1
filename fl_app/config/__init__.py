"""From a Hydra override string to the one configuration that server, clients and sweeps share.

Every option and its default lives in ``conf/``. Keys and types are checked here; what values there
are is said by each joint, see ``fl_app.preflight``.

- ``composition``: the configuration that overrides ask for.
- ``data_only``: overrides are data: no resolvers, no Hydra settings, no targets but strategies.
- ``interpolation``: ``${a.b}``, resolved without OmegaConf's resolvers.
- ``stored``: configurations and overrides read from a run's folder.
- ``rules``: what a joint's rules are made of.
- ``keys``, ``types``: which keys exist, and the types of their values.
- ``named``: what a name stands for, imported when it is looked up.
"""

from fl_app.config.composition import compose, identity, joined
from fl_app.config.keys import (
    CONF_DIR,
    NAMES,
    NULLABLE,
    OPEN,
    SPLITS,
    ConfigError,
    nested_strategies,
    plain,
)
from fl_app.config.stored import read_overrides, read_text, read_yaml

__all__ = [
    "CONF_DIR",
    "NAMES",
    "NULLABLE",
    "OPEN",
    "SPLITS",
    "ConfigError",
    "compose",
    "identity",
    "joined",
    "nested_strategies",
    "plain",
    "read_overrides",
    "read_text",
    "read_yaml",
]
