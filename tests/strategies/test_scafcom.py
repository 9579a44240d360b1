"""SCAFCOM: the laws of SCALLION, with the largest values alone and momentum on the clients."""

from pathlib import Path

import numpy as np
import pytest

from fl_app.aggregation.inner import EVERYONE
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from strategies.scafcom import Scafcom, ScafcomClient
from tests.strategies.test_scaffold import (
    EPS,
    Federation,
    N,
    Quadratics,
    identity,  # noqa: F401
)
from tests.strategies.test_scallion import (
    check_c_is_the_mean,
    check_finds_the_optimum,
    check_no_secure_sums,
    check_one_client_alone_does_its_steps,
    check_same_models_as_scaffold,
    check_through_codecs,
    coded,
)


def scafcom(problem: Quadratics, beta: float, lossy=lambda x: x, clients: int = N) -> Federation:
    strategy = Scafcom(clients=clients, **EVERYONE)
    return Federation(strategy, ScafcomClient(beta), problem, lossy)


def test_without_compression_and_momentum_all_models_are_those_of_scaffold() -> None:
    check_same_models_as_scaffold(lambda problem: scafcom(problem, beta=1.0))


def test_c_is_the_mean_of_all_c_i() -> None:
    check_c_is_the_mean(lambda problem, lossy: scafcom(problem, 0.2, lossy), "c/x")


def test_it_finds_the_optimum_by_a_quarter_of_the_values() -> None:
    lossy = coded({"id": "chain", "links": [{"id": "top_k", "fraction": 0.25}, {"id": "fp32"}]})
    check_finds_the_optimum(lambda problem: scafcom(problem, 0.5, lossy), rounds=180)


def test_one_client_alone_does_its_steps() -> None:
    check_one_client_alone_does_its_steps(lambda problem: scafcom(problem, 1.0, clients=1))


def test_momentum_is_the_mean_of_the_ways_that_a_client_went() -> None:
    """And a client that is not asked, or whose reply is lost, keeps it."""
    problem = Quadratics(seed=4, steps=3, lr=0.1)
    here, full = scafcom(problem, 0.25), scafcom(problem, 1.0)
    for one in (here, full):
        one.round(1, [0])
        one.round(2, [1, 2], lost=frozenset({2}))
    assert here.memory[0]["v/x"].any()
    np.testing.assert_allclose(here.memory[0]["v/x"], 0.25 * full.memory[0]["v/x"], rtol=8 * EPS)
    assert not here.memory[2]["v/x"].any()
    assert not here.memory[2]["c/x"].any()


def test_both_ends_decode_the_same_and_a_resumed_run_too(tmp_path: Path) -> None:
    check_through_codecs(tmp_path, "experiment=scafcom", "c/{}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.local.beta=1.5", "beta=1.5 should be in"),
        (
            "strategy.local={_target_:strategies.scallion.ScallionClient}",
            "strategy.local should be strategies.scafcom.ScafcomClient: set strategy=scafcom",
        ),
        ("codec=top_k", "codec.up remembers what it lost, and so does this method"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=1 strategy=scafcom {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("scafcom")
