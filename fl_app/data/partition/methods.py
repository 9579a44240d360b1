"""The partitioners by id, and the rules of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from fl_app.config import ConfigError, plain
from fl_app.config.named import Named
from fl_app.config.rules import COUNT, COUNT_OR_NULL, POSITIVE, Rule, is_whole
from fl_app.data.partition.pathological import MODES
from fl_app.faults.suggestions import did_you_mean

Partitioner = Callable[..., list[list[int]]]

IDS = (
    *("by_column", "client_column", "contiguous", "dirichlet", "exponential", "iid"),
    *("inner_dirichlet", "linear", "natural", "pathological", "shard", "size", "square"),
)
PARTITIONERS: Mapping[str, Partitioner] = Named(
    {name: f"fl_app.data.partition.{name}:split" for name in IDS}
)
ARGUMENTS = {
    "alpha": POSITIVE,
    "class_assignment_mode": Rule(f"one of {', '.join(MODES)}", lambda x: x in MODES),
    "keep_incomplete_shard": Rule("true or false", lambda x: isinstance(x, bool)),
    "min_partition_size": COUNT_OR_NULL,
    "num_classes_per_partition": COUNT,
    "num_shards_per_partition": COUNT_OR_NULL,
    "partition_sizes": Rule(
        "a list of whole numbers greater than 0, one per client",
        lambda x: isinstance(x, list) and all(is_whole(one, 1) for one in x),
    ),
    "shard_size": COUNT_OR_NULL,
}
ONE_OF = {"shard": ("num_shards_per_partition", "shard_size")}  # at least, must be given


def partitioner(
    cfg_partitioner: DictConfig, num_partitions: int
) -> tuple[Partitioner, dict[str, Any]]:
    """Return the function that ``id`` names, and its arguments: the other keys.

    Raises
    ------
    ConfigError
        If the id is unknown (the message lists the known ones), an argument is missing or unknown,
        or a value is not allowed.
    """
    given = dict(plain(cfg_partitioner))
    name = given.pop("id", None)
    if name not in PARTITIONERS:
        known = sorted(PARTITIONERS)
        raise ConfigError(
            f"data.partitioner.id={name} should be one of {known}.{did_you_mean(name, known)}"
        )
    _check_names(name, given)
    for key, value in given.items():
        if key in ARGUMENTS and not ARGUMENTS[key].holds(value):
            raise ConfigError(f"data.partitioner.{key}={value!r} should be {ARGUMENTS[key].should}")
    sizes = given.get("partition_sizes")
    if sizes is not None and len(sizes) != num_partitions:
        raise ConfigError(
            f"data.partitioner.partition_sizes has {len(sizes)} sizes, and there are "
            f"{num_partitions} clients: give one per client, or set federation.clients={len(sizes)}"
        )
    return PARTITIONERS[name], given


def _check_names(name: str, given: dict[str, Any]) -> None:
    takes = dict([*inspect.signature(PARTITIONERS[name]).parameters.items()][3:])
    for key in given:
        if key not in takes:
            raise ConfigError(
                f"data.partitioner.id={name} takes no {key}: remove it with "
                f"~data.partitioner.{key}.{did_you_mean(key, takes)}"
            )
    missing = [
        f"data.partitioner.{key}"
        for key, parameter in takes.items()
        if key not in given and parameter.default is parameter.empty
    ]
    if missing:
        raise ConfigError(f"data.partitioner.id={name} needs {' and '.join(missing)}")
    needed = ONE_OF.get(name, ())
    if needed and all(given.get(key) is None for key in needed):
        keys = " or ".join(f"data.partitioner.{key}" for key in needed)
        raise ConfigError(f"data.partitioner.id={name} needs {keys}")
