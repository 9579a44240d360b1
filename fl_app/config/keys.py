"""The keys of a configuration: where they are defined, and below which an override may add keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf

from fl_app.faults.suggestions import did_you_mean_key

CONF_DIR = Path(__file__).parents[2] / "conf"

SPLITS = (
    "train",
    "validation",
    "test",
    "unseen",
    "public",
    "source",
)  # of a table: see fl_app.data.table

# Below these keys an override may add keys: forms of messages, the codec of a cut model's states,
# arguments of a strategy's halves, of a Hugging Face model configuration, a method of PEFT, a codec
# or a partitioner, or columns of data. Those check them.
OPEN = (
    *("adapter.args", "adapter.config"),
    *("strategy.inner", "strategy.local", "strategy.forms", "strategy.states"),
    *("model.config", "codec.up", "codec.down", "data.partitioner"),
    *("data.formats", "data.empty", "link.clients"),
    *(f"data.{split}.{key}" for split in SPLITS for key in ("columns", "drop")),
)

# These have a value in conf/, and null turns it off.
NULLABLE = (
    *("model.sha256", "model.tokenizer", "model.visual_path", "target.value", "data.target"),
    *(f"link.{way}.{key}" for way in ("up", "down") for key in ("rate", "burst")),
    *("task.average_over", "privacy.epsilon", "federation.max_update_rms", "data.validation.path"),
    *(f"data.{split}.{key}" for split in SPLITS for key in ("name", "limit")),
)
# Step sizes by adapter, task and kind of model, from which conf/ takes the defaults of optimizer.lr
# and adapter.eta by interpolation. They are no options: a composed configuration has none of them.
RECIPES = ("model.recipe", "adapter.recipe", "task.recipe")
NAMES = ("adapter.target_modules",)  # a name, or a list of names as in PEFT


class ConfigError(ValueError):
    """An override that names no option, or gives one an invalid value."""


def is_open(key: str) -> bool:
    """Tell whether an override may add ``key``."""
    return key.startswith(tuple(f"{above}." for above in OPEN))


def known(node: DictConfig, path: str) -> list[str]:
    """Return the keys of ``node``, sorted; at the top with the group ``experiment``."""
    return sorted([*map(str, node), *([] if path else ["experiment"])])


def unknown(key: str, defaults: DictConfig) -> str:
    """Return the message about a key that no selected file of conf/ has.

    Parameters
    ----------
    key : str
        The key, dotted.
    defaults : DictConfig
        The whole configuration as conf/ has it.
    """
    parent = key.rpartition(".")[0]
    while parent and not isinstance(OmegaConf.select(defaults, parent), DictConfig):
        parent = parent.rpartition(".")[0]
    node = OmegaConf.select(defaults, parent) if parent else defaults
    where = f"Keys of {parent or 'the configuration'}"
    similar = did_you_mean_key(key, ["experiment", *_dotted("", plain(defaults))])
    return f"'{key}' is not an option.{similar} {where}: {known(node, parent)}"


def _dotted(prefix: str, node: dict[str, Any]) -> Iterator[str]:
    """Yield all keys of a nested mapping, dotted."""
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _dotted(f"{prefix}{name}.", value)


def plain(node: Any) -> Any:
    """Return a part of a configuration as plain dicts, lists and scalars.

    Nothing is resolved: `compose` has done that, and configurations from files are plain text.
    """
    if isinstance(node, Container):
        return OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node


def nested_strategies(cfg: DictConfig) -> Iterator[dict[str, Any]]:
    """Yield the arguments of ``strategy.inner`` and of the strategies in it, outermost first."""
    part = plain(cfg.strategy.inner)
    while isinstance(part, dict):
        yield part
        part = part.get("strategy")
