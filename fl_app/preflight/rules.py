"""What each value of a configuration may be."""

import math
import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_app.config import SPLITS, ConfigError, plain
from fl_app.data import pfl_docvqa, table

Rules = tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...]


def _check_rules(cfg: DictConfig, rules: Rules) -> None:
    for should, holds, keys in rules:
        for key in keys:
            value = OmegaConf.select(cfg, key, default=_ABSENT)
            if value is not _ABSENT and not holds(plain(value)):
                raise ConfigError(f"{key}={value!r} should be {should}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_nodes(value: Any) -> bool:
    """Return whether this says how many clients a node may have: 2, or {NODE_ID: 2 or [0, 3]}."""
    if not isinstance(value, dict):
        return value is None or _is_whole(value, 1)
    lists = [those for those in value.values() if isinstance(those, list)]
    pinned = [client for those in lists for client in those]
    return (
        all(_is_whole(node, 0) for node in value)
        and all(isinstance(said, list) or _is_whole(said, 1) for said in value.values())
        and all(_is_whole(client, 0) for client in pinned)
        and len({*pinned}) == len(pinned)
    )


def _is_folder_name(value: Any) -> bool:
    return re.fullmatch(r"[^/\\\0]+", str(value)) is not None and str(value) not in (".", "..")


def _is_source_or_null(value: Any) -> bool:
    return value is None or table.is_source(value)


def _is_map_of_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_name, [*value, *value.values()]))


# What a value should be, the test of it, and the keys it is for; a key that the chosen group's
# file does not have is not asked for.
RULES: Rules = (
    (
        "greater than 0 and finite",
        lambda x: _is_number(x) and x > 0,
        (
            "rounds", "clients_per_round", "local_epochs", "batch_size",
            "gradient_accumulation",
            "adapter.r", "adapter.alpha", "adapter.init_samples", "adapter.init_batch_size",
            "adapter.eta",
            "data.providers_per_client", "data.documents_per_provider", "data.test_documents",
            "data.unseen_providers", "data.public_documents", "data.unseen_documents_per_provider",
            "data.problems_per_provider", "data.test_problems", "data.public_providers",
            "data.public_problems_per_provider", "data.unseen_problems_per_provider",
            "federation.clients", "federation.torch_threads", "federation.reply_timeout",
            "federation.node_timeout", "federation.min_replies",
            "model.max_length", "model.max_answer_length",
            "optimizer.lr", "optimizer.max_grad_norm",
            "optimizer.root_interval", "optimizer.block_size",
            "privacy.max_grad_norm",
        ),
    ),
    (
        "at least 0 and finite",
        lambda x: _is_number(x) and x >= 0,
        ("evaluate_clients_per_round", "optimizer.eps", "optimizer.weight_decay"),
    ),
    (
        "in [0, 1]",
        lambda x: _is_number(x) and 0 <= x <= 1,
        ("optimizer.warmup", "optimizer.decay", "federation.max_failures"),
    ),
    (
        "null or greater than 0",
        lambda x: x is None or (_is_number(x) and x > 0),
        ("privacy.epsilon", "privacy.noise_multiplier", "federation.max_update_rms"),
    ),
    (
        "null or in (0, 1)",
        lambda x: x is None or (_is_number(x) and 0 < x < 1),
        ("privacy.delta",),
    ),
    (
        "null or less than 0",
        lambda x: x is None or (_is_number(x) and x < 0),
        ("optimizer.exponent",),
    ),
    (
        "null, the most clients that a node may have, or {NODE_ID: the most, or a list of clients}",
        _is_nodes,
        ("federation.clients_per_node",),
    ),
    ("in [0, 1)", _is_share, ("adapter.dropout",)),
    (
        "in (0.5, 1]: two halves of a group could reveal both secrets of a client",
        lambda x: _is_number(x) and 0.5 < x <= 1,
        ("strategy.secure_aggregation.threshold",),
    ),
    (
        "null or a whole number",
        lambda x: x is None or (isinstance(x, int) and not isinstance(x, bool)),
        ("strategy.secure_aggregation.neighbours",),
    ),
    ("in [0, 2^63)", lambda x: _is_number(x) and 0 <= x < 2**63, ("seed", "data.seed")),
    (
        "a list of two numbers in [0, 1)",
        lambda x: isinstance(x, list) and len(x) == 2 and all(map(_is_share, x)),
        ("optimizer.betas",),
    ),
    (
        "a name or a list of names, not empty",
        lambda x: _is_name(x) or (_is_list_of_names(x) and x != []),
        ("adapter.target_modules",),
    ),
    (
        "a list of names",
        _is_list_of_names,
        ("adapter.modules_to_save", "adapter.freeze", "logger.wandb.tags"),
    ),
    ("a name", _is_name, ("logger.wandb.project", "logger.mlflow.experiment_name")),
    ("a number or null", lambda x: x is None or _is_number(x), ("target.value", "data.target")),
    ("the path of a folder", _is_name, ("output.dir",)),
    (
        "embedded:NAME, a hub id (ORGANISATION/NAME), the absolute path of a folder, or random",
        _is_name,
        ("model.path",),
    ),
    (
        "null, an absolute path, or the id of a data set of the hub",
        lambda x: x is None or table.is_source_name(x),
        tuple(f"data.{split}.path" for split in SPLITS),
    ),
    ("the name of a split", _is_name, tuple(f"data.{split}.split" for split in SPLITS)),
    (
        "a mapping of names to names",
        _is_map_of_names,
        tuple(f"data.{split}.columns" for split in SPLITS),
    ),
    (
        "null or a whole number greater than 0",
        lambda x: x is None or (isinstance(x, int) and not isinstance(x, bool) and x > 0),
        ("federation.max_examples", *(f"data.{split}.limit" for split in SPLITS)),
    ),
    ("the name of a column", _is_name, ("task.reference", "task.label")),
    (
        "a list of one or two columns",
        lambda x: _is_list_of_names(x) and len(x) in (1, 2),
        ("task.texts",),
    ),
    (
        "a list of at least two different names",
        lambda x: _is_list_of_names(x) and len({*x}) == len(x) > 1,
        ("task.labels",),
    ),
    (
        "null or the name of a folder, without / and \\",
        lambda x: x is None or (isinstance(x, (str, int)) and _is_folder_name(x)),
        ("output.name",),
    ),
    (
        "null or a name",
        lambda x: x is None or _is_name(x),
        (
            *("model.tokenizer", "model.visual_path", "task.average_over"),
            *("logger.wandb.entity", "logger.wandb.group"),
            *(f"data.{split}.name" for split in SPLITS),
        ),
    ),
    (  # MLflow would import what another scheme names, and write to any file
        "null or the http:// or https:// address of a server",
        lambda x: x is None or re.fullmatch(r"https?://\S+", str(x)) is not None,
        ("logger.mlflow.tracking_uri",),
    ),
    (
        "null or a SHA-256 in hex",
        lambda x: x is None or re.fullmatch("[0-9a-f]{64}", str(x)) is not None,
        ("model.sha256",),
    ),
)  # fmt: skip

# Of the machine that has the data: a node may have its own, and never has the test set.
SOURCES: Rules = (
    (
        "the absolute path of a folder written by `python -m fl_app.data.pfl_docvqa_convert`",
        pfl_docvqa.is_converted,
        ("data.path",),
    ),
    (
        "the absolute path of a file or folder that exists, or the id of a data set of the hub",
        table.is_source,
        ("data.train.path", "data.test.path"),
    ),
    ("null, or as data.train.path", _is_source_or_null, ("data.unseen.path", "data.public.path")),
)

_ABSENT = object()
