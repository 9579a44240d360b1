"""The rules of ``data``: the data sets, and the allowed values of their options."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_app import data
from fl_app.config import SPLITS, ConfigError
from fl_app.config.rules import (
    COUNT_OR_NULL,
    NAME_OR_NULL,
    NUMBER_OR_NULL,
    POSITIVE,
    SEED,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_name,
    is_share,
    is_whole,
)
from fl_app.data import paths
from fl_app.data.invoices.marks import KINDS
from fl_app.data.readers import SAMPLE_BY


def _is_map_of_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_name, [*value, *value.values()]))


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_name(column) and isinstance(text, str | int) and not isinstance(text, bool)
        for column, text in value.items()
    )


CHOICES: Choices = {"data.id": data.LOADERS, "data.sample_by": SAMPLE_BY}
RULES: Rules = (
    (
        POSITIVE,
        (
            "data.providers_per_client", "data.documents_per_provider", "data.test_documents",
            "data.unseen_providers", "data.public_documents", "data.unseen_documents_per_provider",
            "data.problems_per_provider", "data.test_problems", "data.public_providers",
            "data.public_problems_per_provider", "data.unseen_problems_per_provider",
        ),
    ),
    (
        Rule("0 (none) or a whole number greater than 0", lambda x: is_whole(x, 0)),
        (
            "data.validation_documents", "data.validation_problems", "data.source_documents",
            "data.source_problems",
        ),
    ),
    (
        Rule(f"a whole number in [0, {len(KINDS)}]", lambda x: is_whole(x, 0) and x <= len(KINDS)),
        ("data.marks",),
    ),
    (
        Rule("null or in (0, 1)", lambda x: x is None or (is_share(x) and x > 0)),
        ("data.validation.share", "data.test.share"),
    ),
    (SEED, ("data.seed",)),
    (NUMBER_OR_NULL, ("data.target",)),
    (
        Rule(
            "null, an absolute path, or the id of a data set of the hub",
            lambda x: x is None or paths.is_source_name(x),
        ),
        tuple(f"data.{split}.path" for split in SPLITS),
    ),
    (Rule("the name of a split", is_name), tuple(f"data.{split}.split" for split in SPLITS)),
    (
        Rule("a mapping of names to names", _is_map_of_names),
        tuple(f"data.{split}.columns" for split in SPLITS),
    ),
    (
        Rule("a mapping of columns to formats, such as .2f, %Y-%m-%d or yes|no", _is_map_of_names),
        ("data.formats",),
    ),
    (Rule("a mapping of columns to texts", _are_texts), ("data.empty",)),
    (COUNT_OR_NULL, tuple(f"data.{split}.limit" for split in SPLITS)),
    (NAME_OR_NULL, (*(f"data.{split}.name" for split in SPLITS), "data.client")),
)  # fmt: skip
EXISTING = "the absolute path of a file or folder that exists"
# For the machine that reads the data: a node may have its own rows, and never has the test set.
SOURCES: Rules = (
    (
        Rule(
            "the absolute path of a folder written by `python -m fl_app.data.pfl_docvqa_convert`",
            paths.is_converted,
        ),
        ("data.path",),
    ),
    (
        Rule(f"{EXISTING}, or the id of a data set of the hub", paths.is_source),
        ("data.train.path",),
    ),
    (
        Rule(
            f"null, {EXISTING}, or the id of a data set of the hub",
            lambda x: x is None or paths.is_source(x),
        ),
        tuple(f"data.{split}.path" for split in SPLITS if split != "train"),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check everything that does not require reading data.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names the key and the allowed values.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    _check_sizes(cfg)
    _check_shares(cfg)
    _check_client(cfg)
    _check_partitioner(cfg)


def check_sources(cfg: DictConfig) -> None:
    """Check that the data sources of a run are available on this machine.

    Raises
    ------
    ConfigError
        If one is not; the message names the key and the allowed values.
    """
    check_rules(cfg, SOURCES)
    if cfg.data.id == "table" and cfg.data.test.path is None and cfg.data.test.share is None:
        raise ConfigError(
            "data.test.path=None should be the absolute path of a file or folder that exists, or "
            "the id of a data set of the hub; or set data.test.share, a share of data.train"
        )


def _check_sizes(cfg: DictConfig) -> None:
    clients = cfg.federation.clients
    if cfg.data.get("clients", clients) != clients:
        raise ConfigError(
            f"data.clients={cfg.data.clients} should be federation.clients={clients}: set "
            f"federation.clients={cfg.data.clients}"
        )
    held = clients * cfg.data.get("providers_per_client", 1)
    if cfg.data.get("test_documents", held) > held:
        raise ConfigError(
            f"data.test_documents={cfg.data.test_documents} should be at most {held}, one per "
            "provider: federation.clients * data.providers_per_client"
        )


def _check_shares(cfg: DictConfig) -> None:
    for split in ("test", "validation"):
        asked = OmegaConf.select(cfg, f"data.{split}.share")
        if asked is None:
            continue
        share = f"data.{split}.share={asked}"
        if cfg.data[split].path is not None:
            raise ConfigError(
                f"{share} should be null with data.{split}.path={cfg.data[split].path}: the "
                f"{split} rows are either given, or a share of the train rows"
            )
        if cfg.data.train.path is None:
            raise ConfigError(
                f"{share} is a share of data.train.path, which is null: set data.{split}.path, "
                "since nodes keep all of their own rows"
            )


def _check_client(cfg: DictConfig) -> None:
    column = OmegaConf.select(cfg, "data.client")
    if column is None:
        return
    found = cfg.data.partitioner
    if found.id != "client_column" or found.get("column") != column:
        raise ConfigError(
            f"data.client={column} is counted where data.train is read, before a simulation: here, "
            "leave it out, set federation.clients, and start each node with its own rows, or set "
            f"data.partitioner.id=client_column data.partitioner.column={column}"
        )


def _check_partitioner(cfg: DictConfig) -> None:
    _, arguments = data.partitioner(cfg.data.partitioner, cfg.federation.clients)
    if cfg.data.id not in data.COLUMNS:
        return
    known = data.COLUMNS[cfg.data.id]
    if cfg.data.partitioner.id == "natural":  # the values of its column are clients' numbers
        known = {name: kind for name, kind in known.items() if kind is int}
    if "column" in arguments and arguments["column"] not in known:
        raise ConfigError(
            f"data.partitioner.column={arguments['column']} should be one of {sorted(known)} with "
            f"data.id={cfg.data.id} and data.partitioner.id={cfg.data.partitioner.id}"
        )
