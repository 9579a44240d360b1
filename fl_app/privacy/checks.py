"""Combinations of options that would not be private, refused before anything starts."""

from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from fl_app import privacy
from fl_app.adapters.lora_sb_init import CLIENTS_INITS
from fl_app.config import plain

# Classes by name: a node checks this too, and imports no strategy.
RELEASE = "strategies.private_release.PrivateRelease"
SERVER_SIDE = f"{privacy.WRAPPERS}ServerSideFixedClipping"
CLIENT_SIDE = f"{privacy.WRAPPERS}ClientSideFixedClipping"
MEANS = (
    *("flwr.serverapp.strategy.FedAvg", "flwr.serverapp.strategy.FedProx"),
    "strategies.fed_sb.FedSB",
)


def check(cfg: DictConfig) -> None:
    """Check that what the configuration calls private is.

    Raises
    ------
    ValueError
        Naming the key and what it may be.
    """
    example, client = privacy.is_example_level(cfg), privacy.is_client_level(cfg)
    if not example and not client:
        return
    if find_spec("opacus") is None:
        raise ValueError("privacy needs Opacus: pip install 'thinwire[private]'")
    if example and client:
        raise ValueError(
            "privacy=dp_sgd protects rows and the strategy's wrapper whole clients: choose one, "
            "since their epsilons are of different promises"
        )
    if cfg.adapter.get("init") in CLIENTS_INITS:
        raise ValueError(
            f"adapter.init={cfg.adapter.init} sends what the clients' own rows say without any "
            "noise: set adapter.init=server_public with privacy"
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
    """Check that the noise of Flower's wrapper fits the sum that it is added to."""
    release = plain(cfg.strategy.inner)
    if release.get("_target_") != RELEASE:
        raise ValueError(
            f"strategy.inner: put Flower's wrapper into {RELEASE}, as "
            "conf/strategy/fedavg_dp_server.yaml does"
        )
    wrapper = release.get("strategy") or {}
    target = wrapper.get("_target_")
    if target not in (SERVER_SIDE, CLIENT_SIDE):
        raise ValueError(
            f"strategy.inner.strategy={_name(wrapper)} has no epsilon that holds: Flower's "
            "adaptive wrappers clip to one length and add noise for the next round's; use one with "
            "FixedClipping"
        )
    averaging = wrapper.get("strategy") or {}
    if averaging.get("_target_") not in MEANS:
        raise ValueError(
            f"strategy.inner.strategy.strategy={_name(averaging)}: the noise is for a mean of the "
            f"clients' models; use {' or '.join(MEANS)}"
        )
    weight = averaging.get("weighted_by_key")
    if weight != "one":
        raise ValueError(
            f"strategy.inner.strategy.strategy.weighted_by_key={weight!r} lets one client count "
            "for more than the noise hides: set it to one"
        )
    sampled = wrapper.get("num_sampled_clients")
    if sampled != cfg.clients_per_round:
        raise ValueError(
            f"strategy.inner.strategy.num_sampled_clients={sampled} should be "
            f"clients_per_round={cfg.clients_per_round}"
        )
    noise = wrapper.get("noise_multiplier")
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not noise > 0:
        raise ValueError(
            f"strategy.inner.strategy.noise_multiplier={noise} should be greater than 0"
        )
    if target == CLIENT_SIDE and cfg.codec.up.id != "fp32":
        raise ValueError(
            f"codec.up={cfg.codec.up.id} may lengthen an update that the client has clipped: set "
            "codec.up={id:fp32}, or clip on the server (strategy=fedavg_dp_server)"
        )


def _name(arguments: dict[str, Any]) -> str:
    return str(arguments.get("_target_")).rpartition(".")[2]
