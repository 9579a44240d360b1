"""Flower's usual keys of --run-config: the same run as the overrides that they stand for."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.config import ConfigError, compose, identity
from fl_app.config.aliases import OPTIONS, overrides_of

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
DECLARED = tomllib.loads(PROJECT.read_text())["tool"]["flwr"]["app"]["config"]


def test_what_is_declared_says_nothing():
    assert {*DECLARED} == {"overrides", *OPTIONS}
    assert overrides_of({**DECLARED, "overrides": "experiment=thin rounds=3"}) == (
        "experiment=thin rounds=3"
    )
    assert overrides_of({"overrides": ""}) == ""


@given(
    st.integers(1, 99), st.integers(1, 9), st.integers(1, 64), st.floats(1e-6, 1.0),
    st.floats(0.001, 1.0), st.integers(1, 40),
)  # fmt: skip
def test_keys_mean_their_options(rounds, epochs, batch, lr, share, clients):
    overrides = overrides_of(
        {
            **DECLARED,
            "overrides": f"federation.clients={clients}",
            "num-server-rounds": rounds,
            "local-epochs": epochs,
            "batch-size": batch,
            "learning-rate": lr,
            "fraction-train": share,
        }
    )
    cfg = compose(overrides)
    assert (cfg.rounds, cfg.local_epochs, cfg.batch_size) == (rounds, epochs, batch)
    assert cfg.optimizer.lr == lr
    assert cfg.clients_per_round == max(1, int(share * clients))  # as Flower's strategies round
    again = overrides_of({**DECLARED, "overrides": overrides, "num-server-rounds": rounds})
    assert identity(compose(again)) == identity(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num-server-rounds", -1),
        ("num-server-rounds", 2.5),
        ("num-server-rounds", True),
        ("num-server-rounds", False),
        ("learning-rate", True),
        ("fraction-train", True),
        ("fraction-evaluate", float("nan")),
        ("batch-size", "eight"),
        ("local-epochs", "3"),
        ("fraction-train", 1.5),
        ("fraction-evaluate", -0.1),
        ("learning-rate", float("inf")),
        ("learning-rate", "1e-3 rounds=99"),
    ],
)
def test_other_values_are_refused_by_name(key, value):
    overrides_of({**DECLARED, key: 1})  # equal to true, and remembered
    with pytest.raises(ConfigError, match=f"{key}=.*of --run-config should be"):
        overrides_of({**DECLARED, key: value})


def test_two_answers_are_refused():
    said = {**DECLARED, "overrides": "rounds=5", "num-server-rounds": 3}
    with pytest.raises(ConfigError, match="means rounds=3, and overrides has rounds=5"):
        overrides_of(said)
    assert overrides_of({**said, "num-server-rounds": 5}) == "rounds=5 rounds=5"
    same = {**DECLARED, "overrides": "++optimizer.lr=1.0e-4", "learning-rate": 1e-4}
    assert compose(overrides_of(same)).optimizer.lr == 1e-4
    for other in ("~optimizer.lr", "optimizer.lr=2e-4", "optimizer.lr=true", "optimizer.lr=x"):
        with pytest.raises(ConfigError, match=r"means optimizer\.lr=1, and overrides has"):
            overrides_of({**DECLARED, "overrides": other, "learning-rate": 1})


def test_overrides_that_cannot_be_read_are_said_as_without_keys():
    for overrides in ("experiment='thin", "nonsense"):
        with pytest.raises(ConfigError) as alone:
            compose(overrides)
        with pytest.raises(ConfigError) as error:
            overrides_of({**DECLARED, "overrides": overrides, "num-server-rounds": 3})
        assert str(error.value) == str(alone.value)
