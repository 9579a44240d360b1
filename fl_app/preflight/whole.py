"""Checks of a whole configuration, before anything is started or loaded."""

from collections.abc import Collection

from omegaconf import DictConfig, OmegaConf

from fl_app import data, models, privacy
from fl_app.adapters import ADAPTERS
from fl_app.adapters.lora_sb.start import CLIENT_MEAN, FIRST_CLIENT, INITS, SETUPS
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, plain
from fl_app.preflight.rules import _ABSENT, RULES, SOURCES, _check_rules
from fl_app.privacy import checks as privacy_checks
from fl_app.runs import loggers
from fl_app.secure_aggregation import checks as secure_checks
from fl_app.tasks import TASKS
from fl_app.tasks.answers import ANSWERS
from fl_app.tasks.template import Template
from fl_app.training.optimizers import OPTIMIZERS, SCHEDULES
from fl_app.training.shampoo import GRAFTS
from fl_app.wire.conventions import COLUMNS

REFERENCES = ("theta0", "broadcast")


def check(cfg: DictConfig) -> None:
    """Check all that a run on this machine needs, before anything is started.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    from fl_app.preflight.strategy import check_strategy  # with what a node does not import

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
    gathers = cfg.adapter.get("init") in (CLIENT_MEAN, FIRST_CLIENT)
    if gathers and cfg.adapter.setup == "derive":
        raise ConfigError(
            f"with adapter.init={cfg.adapter.init} no client can find B and A by itself: set "
            "adapter.setup=download (experiment=fed_sb sets derive)"
        )
