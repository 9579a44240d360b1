"""SCALLION: SCAFFOLD in one vector, and what stays of it when that vector is compressed."""

from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from omegaconf import OmegaConf

from fl_app.aggregation.inner import EVERYONE
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, compose, plain
from fl_app.preflight import check
from fl_app.secure_aggregation.checks import check as check_secure
from fl_app.training.local import LocalMethod
from fl_app.training.loop import NO_HOOKS
from strategies.scallion import CHANGE, Scallion, ScallionClient
from tests.server.test_parts import check_goes_on, remembered
from tests.strategies.test_scaffold import (
    EPS,
    Federation,
    N,
    Quadratics,
    identity,  # noqa: F401
    sampled,
    scaffold,
)


def scallion(problem: Quadratics, alpha: float, lossy=lambda x: x, clients: int = N) -> Federation:
    strategy = Scallion(clients=clients, **EVERYONE)
    return Federation(strategy, ScallionClient(alpha), problem, lossy)


def coded(spec: dict):
    """Return what a codec makes of one message after the other."""
    codec = from_spec(spec)
    state = None

    def lossy(x: np.ndarray) -> np.ndarray:
        nonlocal state
        ref = {"x": np.zeros_like(x)}
        state = codec.init(ref) if state is None else state
        wire, state = codec.encode({"x": x}, state, ref)
        return codec.decode(wire, ref)["x"]

    return lossy


def check_same_models_as_scaffold(make) -> None:
    problem = Quadratics(seed=0, steps=4, lr=0.1)
    ours, other = make(problem), scaffold(problem)
    for number in range(1, 30):
        clients = sampled(number, 2)
        ours.round(number, clients)
        other.round(number, clients)
        bound = 100 * EPS * np.abs(problem.b).max()
        np.testing.assert_allclose(ours.model, other.model, rtol=0, atol=bound)
    assert np.abs(ours.model).max() > 0.1


def check_c_is_the_mean(make, name: str) -> None:
    """With replies that were lost, too, and of whoever took part."""
    for lossy in (lambda x: x, coded({"id": "sign"}), coded({"id": "top_k"})):
        here = make(Quadratics(seed=1, steps=3, lr=0.05), lossy)
        for number in range(1, 12):
            clients = sampled(number, 2)
            lost = frozenset(clients[:1]) if number % 3 == 0 else frozenset()
            here.round(number, clients, lost)
            c_i = np.array([here.memory[k][name] for k in range(N)], np.float64)
            bound = number * EPS * np.abs(c_i).sum(0) + EPS * np.abs(here.problem.b).max()
            assert (np.abs(here.strategy.c["x"] - c_i.mean(0)) <= bound).all()
        assert here.strategy.c["x"].any()


def check_finds_the_optimum(make, rounds: int) -> None:
    """Exactly, by two steps of three of the clients; FedAvg does not by those of all."""
    problem = Quadratics(seed=2, steps=2, lr=0.1, size=12)
    ours = make(problem)
    plain = Federation(FedAvg(weighted_by_key="one", **EVERYONE), LocalMethod(), problem)
    for number in range(1, rounds):
        ours.round(number, sampled(number, 3))
    for number in range(1, 30):
        plain.round(number, [*range(N)])
    scale = float(np.abs(problem.b).max())
    assert np.abs(ours.model - problem.best).max() < 100 * EPS * scale
    assert np.abs(plain.model - problem.best).max() > 0.001 * scale


def check_one_client_alone_does_its_steps(make) -> None:
    """And x goes on to x + eta_g (y - x)."""
    problem = Quadratics(seed=3, steps=4, lr=0.1)
    ours = make(problem)
    ours.strategy.eta_g = 1.5
    for number in range(1, 6):
        x = {"x": ours.model}
        y = problem.loop(0, x)(hooks=NO_HOOKS).model["x"]
        ours.round(number, [0])
        bound = 20 * EPS * np.abs(problem.b).max()
        np.testing.assert_allclose(ours.model, x["x"] + 1.5 * (y - x["x"]), rtol=0, atol=bound)


def check_through_codecs(tmp_path: Path, experiment: str, name: str) -> None:
    """c is the mean of what the nodes remember; one part travels up, two down; runs go on."""
    rounds = check_goes_on(tmp_path, f"{experiment} optimizer.lr=3e-3")
    rows = [row for row in rounds.ledger.rows if row.kind == "train"]
    up = [row for row in rows if row.direction == "up"]
    down = [row for row in rows if row.direction == "down" and row.round == 3]
    accepted = {row.partition: row.round for row in up}
    assert all(row.codec.startswith(f"{CHANGE}:") for row in up)
    assert {row.scalars for row in down} == {2 * row.scalars for row in up}
    assert max(4 * row.payload_bytes for row in up) < down[0].payload_bytes
    kept = {client: remembered(rounds, client, number) for client, number in accepted.items()}
    for tensor, c in rounds.coded.inner.c.items():
        c_i = np.array([one[name.format(tensor)] for one in kept.values()], np.float64)
        bound = 16 * EPS * np.abs(c_i).sum(0).max(initial=0)
        np.testing.assert_allclose(c, c_i.sum(0) / 3, rtol=0, atol=bound)
    assert any(c.any() for c in rounds.coded.inner.c.values())


def check_no_secure_sums(strategy: str) -> None:
    cfg = compose(f"federation.clients=3 clients_per_round=3 strategy={strategy}")
    secure = {"secure_aggregation": {"threshold": 0.66, "neighbours": None}}
    cfg = OmegaConf.merge(OmegaConf.create(plain(cfg)), {"strategy": secure})
    with pytest.raises(ValueError, match="secure aggregation adds up models, and no other parts"):
        check_secure(cfg)


def test_without_compression_all_models_are_those_of_scaffold() -> None:
    check_same_models_as_scaffold(lambda problem: scallion(problem, alpha=1.0))


def test_c_is_the_mean_of_all_c_i() -> None:
    check_c_is_the_mean(lambda problem, lossy: scallion(problem, 0.5, lossy), "x")


def test_it_finds_the_optimum_through_few_levels() -> None:
    lossy = coded({"id": "uniform", "bits": 3, "dither": True})
    check_finds_the_optimum(lambda problem: scallion(problem, 0.5, lossy), rounds=130)


def test_one_client_alone_does_its_steps() -> None:
    check_one_client_alone_does_its_steps(lambda problem: scallion(problem, 1.0, clients=1))


def test_alpha_smooths_the_control_variate() -> None:
    """c_i <- (1 - alpha) c_i + alpha times the way by own steps, without compression."""
    problem = Quadratics(seed=4, steps=3, lr=0.1)
    here, full = scallion(problem, 0.25), scallion(problem, 1.0)
    for one in (here, full):
        one.round(1, [0])
    np.testing.assert_allclose(here.memory[0]["x"], 0.25 * full.memory[0]["x"], rtol=8 * EPS)


@pytest.mark.parametrize("limit", ["", "federation.max_update_rms=1e-5"])
def test_both_ends_count_the_same_and_a_resumed_run_too(tmp_path: Path, caplog, limit: str) -> None:
    """Also of changes that the server scales down."""
    check_through_codecs(tmp_path, f"experiment=scallion {limit}", "{}")
    assert ("scaled down to federation.max_update_rms" in caplog.text) == bool(limit)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.clients=4", "strategy.inner.clients=4 should be"),
        ("strategy.local.alpha=0", "alpha=0 should be in"),
        (
            "strategy.local={_target_:strategies.scaffold.ScaffoldClient}",
            "strategy.local should be strategies.scallion.ScallionClient: set strategy=scallion",
        ),
        ("federation.sampling=nodes", "ScallionClient remembers something of each client"),
        ("codec=sign", "codec.up remembers what it lost, and so does this method"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=1 strategy=scallion {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("scallion")
