"""The rules of ``privacy``: what its options may be, and what would not be private with them."""

from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from fl_app import privacy
from fl_app.adapters import needed_setup
from fl_app.config import plain
from fl_app.config.rules import (
    POSITIVE,
    POSITIVE_OR_NULL,
    Choices,
    Rule,
    Rules,
    check_choices,
    check_rules,
    is_number,
)

# Classes by name: a node checks this too, and imports no strategy.
MEANS = (
    *("flwr.serverapp.strategy.FedAvg", "flwr.serverapp.strategy.FedProx"),
    "strategies.fed_sb.FedSB",
)
CHOICES: Choices = {"privacy.id": privacy.IDS, "privacy.noise": privacy.NOISES}
RULES: Rules = (
    (POSITIVE, ("privacy.max_grad_norm",)),
    (POSITIVE_OR_NULL, ("privacy.epsilon", "privacy.noise_multiplier")),
    (
        Rule("null or in (0, 1)", lambda x: x is None or (is_number(x) and 0 < x < 1)),
        ("privacy.delta",),
    ),
)


def check(cfg: DictConfig) -> None:
    """Check that what the configuration calls private is.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    check_choices(cfg, CHOICES)
    check_rules(cfg, RULES)
    example, client = privacy.is_example_level(cfg), privacy.is_client_level(cfg)
    if not example and not client:
        return
    if find_spec("opacus") is None:
        raise ValueError("privacy needs Opacus: pip install -e '.[private]' in the project")
    if example and client:
        raise ValueError(
            "privacy=dp_sgd protects rows and the strategy's wrapper whole clients: choose one, "
            "since their epsilons are of different promises"
        )
    if example and cfg.turns:
        raise ValueError("privacy=dp_sgd counts the same steps in every round: set turns=[]")
    if example and cfg.augment.id != "none":
        raise ValueError(
            "privacy=dp_sgd needs that a row's gradient is its own: what augmentation draws for a "
            "row depends on the rows before it; set augment=none"
        )
    setup = needed_setup(cfg)
    if setup is not None and setup.asked:
        raise ValueError(
            f"{setup.choice} sends what the clients' own rows say without any noise: set "
            f"{setup.without_clients} with privacy"
        )
    if cfg.evaluate_clients_per_round:
        raise ValueError(
            f"evaluate_clients_per_round={cfg.evaluate_clients_per_round} sends scores on the "
            "clients' own rows without any noise: set it to 0 with privacy"
        )
    if example:
        _check_dp_sgd(cfg)
    else:
        _check_release(cfg)


def _check_dp_sgd(cfg: DictConfig) -> None:
    asked = cfg.privacy
    if (asked.epsilon is None) == (asked.noise_multiplier is None):
        raise ValueError(
            f"privacy.epsilon={asked.epsilon} and privacy.noise_multiplier="
            f"{asked.noise_multiplier}: give one and set the other to null"
        )


def _check_release(cfg: DictConfig) -> None:
    """Check that the noise fits the sum that it is added to."""
    release = plain(cfg.strategy.inner)
    if release.get("_target_") != privacy.RELEASE:
        raise ValueError(
            f"strategy.inner={_name(release)} is not what protects whole clients here: Flower's "
            "wrappers fail at an update of zero and draw their noise from a generator that can be "
            "guessed; set strategy=fedavg_dp_server or fedavg_dp_client"
        )
    if cfg.strategy.get("forms") is not None:
        raise ValueError(
            "strategy.forms: the noise of a whole client's privacy is for its model, and there is "
            "none for other parts of a message"
        )
    averaging = release.get("strategy") or {}
    if averaging.get("_target_") not in MEANS:
        raise ValueError(
            f"strategy.inner.strategy={_name(averaging)}: the noise is for a mean of the clients' "
            f"models; use {' or '.join(MEANS)}"
        )
    weight = averaging.get("weighted_by_key")
    if weight != "one":
        raise ValueError(
            f"strategy.inner.strategy.weighted_by_key={weight!r} lets one client count for more "
            "than the noise hides: set it to one"
        )
    for key in ("noise_multiplier", "clipping_norm"):
        value = release.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"strategy.inner.{key}={value} should be greater than 0")
    if release.get("clipped_by", "server") not in privacy.CLIPPERS:
        raise ValueError(
            f"strategy.inner.clipped_by={release['clipped_by']} should be one of {privacy.CLIPPERS}"
        )
    if release.get("clipped_by") == "client" and cfg.codec.up.id != "fp32":
        raise ValueError(
            f"codec.up={cfg.codec.up.id} may lengthen an update that the client has clipped: set "
            "codec.up={id:fp32}, or clip on the server (strategy=fedavg_dp_server)"
        )


def _name(arguments: dict[str, Any]) -> str:
    return str(arguments.get("_target_")).rpartition(".")[2]
