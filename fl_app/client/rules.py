"""A run's configuration, and one message of it, held against a node's policy."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp.client_app import DEFAULT_ACTION
from omegaconf import DictConfig, OmegaConf

from fl_app import privacy
from fl_app.adapters import needed_setup
from fl_app.client import places
from fl_app.client.node_config import DATA_PATH
from fl_app.client.policy import ALL, DP_SGD, Policy, RefusedError
from fl_app.config import plain
from fl_app.secure_aggregation.settings import KEY, is_on, settings
from fl_app.training.turns import epochs
from fl_app.wire.messages import SECURE_REVEAL, SETUP

TURNS = ("train", "evaluate", f"query.{SETUP}")  # messages that work on a node's rows


def check_run(policy: Policy, context: Context, cfg: DictConfig) -> None:
    """Check what a run is, before anything that it names is imported, built or read.

    Raises
    ------
    RefusedError
        For the first rule that forbids it.
    """
    own = DATA_PATH in context.node_config
    config = plain(cfg)
    setup = needed_setup(cfg)
    derived = setup is not None and setup.derived  # from rows that the run names
    places.check(config, policy, reads_rows=not own or derived)
    _check_names(policy, config)
    for name, value, allowed in (
        ("rounds", config["rounds"], policy.run.rounds),
        ("local_epochs", max(epochs(config)), policy.run.local_epochs),
    ):
        _check_most(f"run.{name}", name, value, allowed)
    _check_rows_asked(policy, cfg, own)
    _check_privacy(policy, cfg)
    _check_secure_sum(policy, cfg)


def kind(message: Message) -> str:
    """Return what a message asks for; Flower takes "train.default" for "train"."""
    return message.metadata.message_type.removesuffix(f".{DEFAULT_ACTION}")


def check_message(policy: Policy, message: Message) -> None:
    """Check what a message itself asks for.

    Raises
    ------
    RefusedError
        If it would reveal a sum of too few clients.
    """
    if kind(message) != f"query.{SECURE_REVEAL}":
        return
    config = message.content.config_records.get("config", ConfigRecord())
    survivors = {*cast(Sequence[int], config.get("survivors", ()))}
    if len(survivors) < policy.secure_sum.least:
        least = f"at least {policy.secure_sum.least} clients"
        raise RefusedError("secure_sum.least", "the sum of these clients", least)


def _check_most(rule: str, key: str, value: Any, most: int | None) -> None:
    if most is not None and not value <= most:
        raise RefusedError(rule, key, f"at most {most}")


def _check_names(policy: Policy, config: dict[str, Any]) -> None:
    rules = policy.run
    for rule, allowed, key, found in (
        ("tasks", rules.tasks, "task.id", [config["task"]["id"]]),
        ("adapters", rules.adapters, "adapter.id", [config["adapter"]["id"]]),
        ("codecs", rules.codecs, "codec.up", _named(config["codec"]["up"], "id")),
        ("codecs", rules.codecs, "codec.down", _named(config["codec"]["down"], "id")),
        ("codecs", rules.codecs, "strategy.forms", _named(config["strategy"].get("forms"), "id")),
    ):
        if allowed != ALL and not {*map(str, found)} <= {*allowed}:
            raise RefusedError(f"run.{rule}", key)
    for target in map(str, _named(config["strategy"], "_target_")):
        if {target, target.rpartition(".")[2]} & {*rules.refused_strategies}:
            raise RefusedError("run.refused_strategies", "strategy.inner")


def _named(config: Any, name: str) -> Iterator[Any]:
    """Yield what ``name`` says in a part of a configuration, at every depth."""
    if isinstance(config, dict):
        if name in config:
            yield config[name]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _named(part, name)


def _check_rows_asked(policy: Policy, cfg: DictConfig, own: bool) -> None:
    """Check that a run picks no rows out of the node's own, of which two runs tell by difference.

    An answer before round 1 can be of fewer rows than a client has.
    """
    if own and not policy.rows.part and "train" in cfg.data:
        asked = cfg.data.train
        whole = {"limit": asked.limit is None, "drop": not asked.drop}
        whole["split"] = not re.search(r"[\[+]", str(asked.split))
        if parts := [key for key, all_of_it in whole.items() if not all_of_it]:
            raise RefusedError("rows.part", f"data.train.{parts[0]}")
    setup = needed_setup(cfg)
    if setup is None or not setup.asked:
        return
    if not OmegaConf.select(cfg, setup.rows_key) >= policy.rows.least:
        raise RefusedError("rows.least", setup.rows_key, f"at least {policy.rows.least}")


def _check_privacy(policy: Policy, cfg: DictConfig) -> None:
    rules, asked = policy.privacy, cfg.privacy
    if asked.id != DP_SGD:
        if rules.required == DP_SGD:
            raise RefusedError("privacy.required", "privacy.id", DP_SGD)
        if rules.epsilon is not None:  # what is answered without noise has no epsilon
            raise RefusedError("privacy.epsilon", "privacy.id", DP_SGD)
    elif rules.epsilon is not None and not (
        asked.epsilon is not None and asked.epsilon <= rules.epsilon
    ):
        raise RefusedError("privacy.epsilon", "privacy.epsilon", f"at most {rules.epsilon:g}")
    if (noise := privacy.noise(cfg)) is not None and rules.noise not in (noise, "any"):
        key = "privacy.noise" if asked.id == DP_SGD else "strategy.inner.seed"
        raise RefusedError("privacy.noise", key, rules.noise)


def _check_secure_sum(policy: Policy, cfg: DictConfig) -> None:
    if not is_on(cfg):
        if policy.secure_sum.required:
            raise RefusedError("secure_sum.required", "strategy", "secure_fedavg")
        return
    group, least = settings(cfg).neighbours + 1, policy.secure_sum.least
    if not min(group, cfg.clients_per_round) >= least:
        key = f"clients_per_round or strategy.{KEY}.neighbours"
        raise RefusedError("secure_sum.least", key, f"at least {least} clients")
