"""The rules of what belongs to no joint: ``federation``, and the rounds and clients of a run."""

from typing import Any

from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.config.rules import (
    COUNT_OR_NULL,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_NULL,
    SEED,
    UNIT,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_whole,
)
from fl_app.wire.messages import BY_NODE


def _is_nodes(value: Any) -> bool:
    """Return whether this says how many clients a node may have: 2, or {NODE_ID: 2 or [0, 3]}."""
    if not isinstance(value, dict):
        return value is None or is_whole(value, 1)
    lists = [those for those in value.values() if isinstance(those, list)]
    pinned = [client for those in lists for client in those]
    return (
        all(is_whole(node, 0) for node in value)
        and all(isinstance(said, list) or is_whole(said, 1) for said in value.values())
        and all(is_whole(client, 0) for client in pinned)
        and len({*pinned}) == len(pinned)
    )


CHOICES: Choices = {
    "federation.device": ("auto", "cpu", "cuda"),
    "federation.sampling": ("partitions", BY_NODE),
}
RULES: Rules = (
    (
        POSITIVE,
        (
            "rounds", "clients_per_round",
            "federation.clients", "federation.torch_threads", "federation.reply_timeout",
            "federation.node_timeout", "federation.min_replies",
        ),
    ),
    (NOT_NEGATIVE, ("evaluate_clients_per_round",)),
    (UNIT, ("federation.max_failures",)),
    (POSITIVE_OR_NULL, ("federation.max_update_rms",)),
    (COUNT_OR_NULL, ("federation.max_examples",)),
    (
        Rule(
            "null, the most clients that a node may have, or {NODE_ID: the most, or a list of "
            "clients}",
            _is_nodes,
        ),
        ("federation.clients_per_node",),
    ),
    (SEED, ("seed",)),
)  # fmt: skip


def check(cfg: DictConfig) -> None:
    """Check who takes part, and how many have to.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    clients = cfg.federation.clients
    for key in ("clients_per_round", "evaluate_clients_per_round"):
        if cfg[key] > clients:
            raise ConfigError(f"{key}={cfg[key]} should be at most federation.clients={clients}")
    if cfg.federation.min_replies > cfg.clients_per_round:
        raise ConfigError(
            f"federation.min_replies={cfg.federation.min_replies} should be at most "
            f"clients_per_round={cfg.clients_per_round}"
        )


def device(cfg: DictConfig) -> str:
    """Return the name in torch of the device that ``federation.device`` chooses here.

    Raises
    ------
    ConfigError
        If it is a GPU, and torch finds none.
    """
    import torch  # which reading the options does not need

    asked = cfg.federation.device
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise ConfigError(
            "federation.device=cuda, but torch finds no GPU on this machine: set "
            "federation.device=auto or cpu, or install a build of torch for the GPU's driver"
        )
    return "cuda" if found and asked != "cpu" else "cpu"
