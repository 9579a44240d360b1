"""What a method cannot do is refused before anything starts, with the reason and the remedy."""

import pytest

from fl_app.config import ConfigError, compose
from fl_app.preflight import check

CLASSES = {
    "dgc": "dgc.DGC", "onebit_adam": "onebit_adam.OneBitAdam", "scallion": "scallion.Scallion",
    "scafcom": "scafcom.Scafcom", "aquila": "aquila.Aquila", "flasc": "flasc.Flasc",
    "safari": "safari.Safari", "rate_control": "rate_control.RateControl",
}  # fmt: skip
THREE = "federation.clients=3 clients_per_round=3"


def refused(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{THREE} {words}"))


@pytest.mark.parametrize("method", CLASSES)
def test_secure_sums_are_for_means_of_models(method: str) -> None:
    """A class whose name alone is given need not get its options first."""
    inner = f"strategy.inner._target_=strategies.{CLASSES[method]}"
    refused(
        f"strategy=secure_fedavg codec=modular {inner}",
        f"{CLASSES[method]} needs more of a round than the mean of the clients' models",
    )


def test_secure_sums_are_not_of_what_fedzip_sends() -> None:
    inner = "strategy=secure_fedavg strategy.inner._target_=strategies.fedzip.FedZip"
    refused(f"{inner} codec=fedzip", "has no sum: use codec=modular")
    refused(f"{inner} codec=modular", "codec.up has no fedzip in it")


@pytest.mark.parametrize("target", [*CLASSES.values(), "fedzip.FedZip"])
@pytest.mark.parametrize("strategy", ["fedavg_dp_server", "fedavg_dp_client"])
def test_the_noise_of_whole_clients_is_for_means_of_models(strategy: str, target: str) -> None:
    refused(
        f"strategy={strategy} codec=fp32 strategy.inner.strategy._target_=strategies.{target}",
        "the noise is for a mean of the clients' models",
    )


@pytest.mark.parametrize(
    ("method", "words", "says"),
    [
        ("dgc", "strategy.local.rho=nan", "rho=nan should be in"),
        ("dgc", "strategy.local.rho=true", "rho=True should be in"),
        ("dgc", "strategy.local.rho=x", "rho=x should be in"),
        ("dgc", "strategy.local.clipping_norm=nan", "clipping_norm=nan should be in"),
        ("dgc", "strategy.local.workers=0", "workers=0 should be a whole number from 1"),
        ("dgc", "strategy.local.masking=7", "masking=7 should be true or false"),
        ("dgc", "strategy.inner.nesterov=7", "nesterov=7 should be true or false"),
        ("dgc", "strategy.inner.eta=0", "eta=0 should be in"),
        ("onebit_adam", "strategy.inner.b1=1", "b1=1 should be in"),
        ("onebit_adam", "strategy.inner.b2=-1", "b2=-1 should be in"),
        ("onebit_adam", "strategy.inner.eps=0", "eps=0 should be in"),
        ("onebit_adam", "strategy.inner.eta=-1", "eta=-1 should be in"),
        ("onebit_adam", "strategy.inner.floor=-1", "floor=-1 should be in"),
        ("onebit_adam", "strategy.local.decay=nan", "decay=nan should be in"),
        ("scallion", "strategy.inner.eta_g=0", "eta_g=0 should be in"),
        ("scallion", "strategy.local.alpha=nan", "alpha=nan should be in"),
        ("scafcom", "strategy.local.beta=nan", "beta=nan should be in"),
        ("aquila", "strategy.inner.alpha=0", "alpha=0 should be in"),
        ("aquila", "strategy.local.beta=inf", "beta=inf should be in"),
        ("aquila", "codec.up={id:uniform,bits:99}", "bits must be 2 to 8, got 99"),
        ("flasc", "strategy.inner.tiers=4", "nobody would be of the last"),
        ("flasc", "strategy.inner.eta=-1", "eta=-1 should be in"),
        ("flasc", "strategy.inner.beta_2=1", "beta_2=1 should be in"),
        ("flasc", "strategy.inner.weight_decay=-1", "weight_decay=-1 should be in"),
        ("flasc", "strategy.inner.dense_heads=7", "dense_heads=7 should be true or false"),
        ("safari", "strategy.inner.surrogates=7", "surrogates=7 should be true or false"),
        ("rate_control", "strategy.inner.deadline=inf", "deadline=inf should be"),
    ],
)
def test_options_that_no_round_could_have(method: str, words: str, says: str) -> None:
    refused(f"strategy={method} codec=fp32 {words}", says)
