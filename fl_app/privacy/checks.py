"""Combinations of options that would not be private, refused before anything starts."""

from importlib.util import find_spec
from typing import Any

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)
from omegaconf import DictConfig

from fl_app import privacy
from fl_app.adapters.lora_sb_init import CLIENTS_INITS
from fl_app.config import plain
from strategies.fed_sb import FedSB
from strategies.inner import inner_strategy
from strategies.private_release import PrivateRelease

MEANS = (FedAvg.aggregate_train, FedSB.aggregate_train)


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
    if plain(cfg.strategy.inner).get("weighted_by_key") == "loss":
        raise ValueError(
            "strategy.inner.weighted_by_key=loss: a private client does not tell its loss; set "
            "num-examples or one"
        )


def _check_release(cfg: DictConfig) -> None:
    """Check that the noise of Flower's wrapper fits the sum that it is added to."""
    release = inner_strategy(cfg)
    if not isinstance(release, PrivateRelease):
        raise ValueError(
            "strategy.inner: put Flower's wrapper into strategies.private_release.PrivateRelease, "
            "as conf/strategy/fedavg_dp_server.yaml does"
        )
    wrapper: Any = release.strategy
    if not isinstance(
        wrapper,
        (DifferentialPrivacyServerSideFixedClipping, DifferentialPrivacyClientSideFixedClipping),
    ):
        raise ValueError(
            f"strategy.inner.strategy={type(wrapper).__name__} has no epsilon that holds: Flower's "
            "adaptive wrappers clip to one length and add noise for the next round's; use one with "
            "FixedClipping"
        )
    averaging: Any = wrapper.strategy
    if type(averaging).aggregate_train not in MEANS:
        raise ValueError(
            f"strategy.inner.strategy.strategy={type(averaging).__name__}: the noise is for a mean "
            "of the clients' models; use flwr.serverapp.strategy.FedAvg or strategies.fed_sb.FedSB"
        )
    if averaging.weighted_by_key != "one":
        raise ValueError(
            f"strategy.inner.strategy.strategy.weighted_by_key={averaging.weighted_by_key!r} lets "
            "one client count for more than the noise hides: set it to one"
        )
    if wrapper.num_sampled_clients != cfg.clients_per_round:
        raise ValueError(
            f"strategy.inner.strategy.num_sampled_clients={wrapper.num_sampled_clients} should be "
            f"clients_per_round={cfg.clients_per_round}"
        )
    if wrapper.noise_multiplier <= 0:
        raise ValueError("strategy.inner.strategy.noise_multiplier=0 should be greater than 0")
    client_side = isinstance(wrapper, DifferentialPrivacyClientSideFixedClipping)
    if client_side and cfg.codec.up.id != "fp32":
        raise ValueError(
            f"codec.up={cfg.codec.up.id} may lengthen an update that the client has clipped: set "
            "codec.up={id:fp32}, or clip on the server (strategy=fedavg_dp_server)"
        )
