"""Checks of a whole configuration, before anything is started or loaded."""

import math
import re
from collections.abc import Callable, Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_app import data, loggers, models, privacy
from fl_app.adapters import ADAPTERS
from fl_app.adapters.lora_sb_init import CLIENTS_INITS, INITS
from fl_app.codecs import from_spec
from fl_app.config import SPLITS, ConfigError, plain
from fl_app.conventions import COLUMNS
from fl_app.data import pfl_docvqa, table
from fl_app.optimizers import OPTIMIZERS, SCHEDULES
from fl_app.privacy import checks as privacy_checks
from fl_app.secure_aggregation import checks as secure_checks
from fl_app.shampoo import GRAFTS
from fl_app.tasks import TASKS
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.template import Template

Rules = tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...]
SETUPS = ("download", "derive")
REFERENCES = ("theta0", "broadcast")


def check(cfg: DictConfig) -> None:
    """Check all that a run on this machine needs, before anything is started.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    from fl_app.strategy_checks import check_strategy  # with what a node does not import

    check_node(cfg)
    check_strategy(cfg)
    _check_rules(cfg, SOURCES)
    try:
        loggers.check(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_node(cfg: DictConfig) -> None:
    """Check every value that can be checked without a model, data or a network.

    Clients need no more than that: only the server has loggers, the test set and the strategy.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    for key, known in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and value not in known:
            raise ConfigError(f"{key}={value} should be one of {sorted(known)}")
    _check_rules(cfg, RULES)
    _check_sizes(cfg)
    for check_part in (
        _check_task,
        _check_model,
        _check_partitioner,
        _check_codecs,
        _check_first_step,
        privacy_checks.check,
        secure_checks.check,
    ):
        try:
            check_part(cfg)
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(str(error)) from None


def _check_rules(cfg: DictConfig, rules: Rules) -> None:
    for should, holds, keys in rules:
        for key in keys:
            value = OmegaConf.select(cfg, key, default=_ABSENT)
            if value is not _ABSENT and not holds(plain(value)):
                raise ConfigError(f"{key}={value!r} should be {should}")


# ---- one value ----------------------------------------------------------------------------------

CHOICES: dict[str, Collection[str]] = {
    "adapter.id": ADAPTERS,
    "adapter.init": INITS,
    "adapter.setup": SETUPS,
    "data.id": data.LOADERS,
    "model.dtype": models.DTYPES,
    "model.quantization": models.QUANTIZATIONS,
    "optimizer.id": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "optimizer.graft": GRAFTS,
    "codec.reference": REFERENCES,
    "federation.device": ("auto", "cpu", "cuda"),
    "logger.wandb.mode": loggers.MODES,
    "task.id": TASKS,
    "task.answer": ANSWERS,
    "output.convention": COLUMNS,
    "privacy.id": privacy.IDS,
    "privacy.noise": privacy.NOISES,
}


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


# ---- one value and another -------------------------------------------------------------------


def _check_sizes(cfg: DictConfig) -> None:
    clients = cfg.federation.clients
    for key in ("clients_per_round", "evaluate_clients_per_round"):
        if cfg[key] > clients:
            raise ConfigError(f"{key}={cfg[key]} should be at most federation.clients={clients}")
    if cfg.federation.min_replies > cfg.clients_per_round:
        raise ConfigError(
            f"federation.min_replies={cfg.federation.min_replies} should be at most "
            f"clients_per_round={cfg.clients_per_round}"
        )
    if cfg.data.get("clients", clients) != clients:
        raise ConfigError(
            f"data.clients={cfg.data.clients} should be federation.clients={clients}: set "
            f"federation.clients={cfg.data.clients}"
        )
    held = clients * cfg.data.get("providers_per_client", 1)
    if cfg.data.get("test_documents", held) > held:
        raise ConfigError(
            f"data.test_documents={cfg.data.test_documents} should be at most {held}, one of each "
            "provider: federation.clients * data.providers_per_client"
        )


def _check_model(cfg: DictConfig) -> None:
    models.find(cfg.model, cfg.task)
    if cfg.adapter.id == "full" and cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            f"model.quantization={cfg.model.quantization} freezes what adapter=full trains: set "
            "adapter=lora or adapter=lora_sb, or model.quantization=none"
        )


def _check_task(cfg: DictConfig) -> None:
    if (cfg.task.id == "docvqa") != (cfg.data.id in data.DOCUMENTS):
        fit = "task=docvqa" if cfg.data.id in data.DOCUMENTS else "task=causal_lm or another"
        raise ConfigError(
            f"task.id={cfg.task.id} does not fit data.id={cfg.data.id}, whose rows are of another "
            f"kind: set {fit}"
        )
    metrics = TASKS[cfg.task.id].metrics
    if cfg.target.metric not in metrics:
        raise ConfigError(
            f"target.metric={cfg.target.metric} should be one of {sorted(metrics)} with "
            f"task.id={cfg.task.id}"
        )
    for key in ("prompt", "response"):
        if key in cfg.task:
            Template(f"task.{key}", cfg.task[key])


def _check_partitioner(cfg: DictConfig) -> None:
    _, arguments = data.partitioner(cfg.data.partitioner)
    if cfg.data.id not in data.COLUMNS:
        return
    known = data.COLUMNS[cfg.data.id]
    if cfg.data.partitioner.id == "natural":  # its values are the clients' numbers
        known = {name: kind for name, kind in known.items() if kind is int}
    if "column" in arguments and arguments["column"] not in known:
        raise ConfigError(
            f"data.partitioner.column={arguments['column']} should be one of {sorted(known)} with "
            f"data.id={cfg.data.id} and data.partitioner.id={cfg.data.partitioner.id}"
        )


def _check_codecs(cfg: DictConfig) -> None:
    for direction in ("up", "down"):
        try:
            codec = from_spec(plain(cfg.codec[direction]))
        except ValueError as error:
            raise ConfigError(f"codec.{direction}: {error}") from None
        if not codec.terminal:
            raise ConfigError(
                f"codec.{direction}={codec.spec} leaves values to encode: end the chain with a "
                "codec that writes bytes, such as fp32 or nf4"
            )
        if direction == "down" and codec.receive is not None:
            raise ConfigError(
                f"codec.down={codec.spec} wants receivers that have heard every message before, "
                "but clients miss rounds: use it on the way up, or error_feedback on the way down"
            )


def _check_first_step(cfg: DictConfig) -> None:
    gathers = cfg.adapter.get("init") in CLIENTS_INITS
    if gathers and cfg.adapter.setup == "derive":
        raise ConfigError(
            f"with adapter.init={cfg.adapter.init} no client can find B and A by itself: set "
            "adapter.setup=download (experiment=fed_sb sets derive)"
        )
