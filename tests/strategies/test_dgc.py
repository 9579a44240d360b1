"""DGC: the invariants of its memory, of its choice of values, and of both halves on quadratics."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE
from fl_app.codecs import chain, error_feedback, fp32, momentum_correction, receive, top_k
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.tree import scalars
from strategies.dgc import DENSE, DGC, SPARSE, DGCClient, chosen, density, parted
from tests.server.test_coded import same
from tests.server.test_parts import check_goes_on
from tests.strategies.federation import Federation, Quadratics

EPS = float(np.finfo(np.float32).eps)
N, MU = 3, 0.9
ALL = 1 - 1e-9  # of the sparse branch: ceil(rho n) = n
THETA0 = {
    "w": np.zeros((10, 10), np.float32),
    "v": np.zeros((5, 8), np.float32),
    "bias": np.zeros(4, np.float32),
    "one": np.zeros((), np.float32),
}


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def dgc(rho: float, nesterov: bool = False, mu: float = MU, lossy=None, **options) -> Federation:
    method = DGCClient(rho, mu=mu, nesterov=nesterov, workers=N, **options)
    strategy = DGC(mu=mu, nesterov=nesterov, **EVERYONE)
    problem = Quadratics(THETA0, N)
    if lossy is None:
        return Federation(strategy, method, problem, THETA0, N)
    return Federation(strategy, method, problem, THETA0, N, lossy)


def sgd(problem: Quadratics, rounds: int, momentum: float, nesterov: bool = False) -> dict:
    """Return what torch's SGD makes of the mean gradients."""
    x = {
        n: torch.nn.Parameter(torch.zeros(t.shape, dtype=torch.float64)) for n, t in THETA0.items()
    }
    optimizer = torch.optim.SGD(x.values(), lr=1.0, momentum=momentum, nesterov=nesterov)
    for _ in range(rounds):
        here = {n: p.detach().numpy().astype(np.float32) for n, p in x.items()}
        for n, g in problem.mean_gradient(here).items():
            x[n].grad = torch.from_numpy(np.asarray(g))
        optimizer.step()
    return {n: p.detach().numpy() for n, p in x.items()}


def assert_close(found, expected, rounds: int) -> None:
    for n, x in expected.items():
        np.testing.assert_allclose(found[n], x, rtol=0, atol=100 * rounds * EPS)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("rho", [ALL, 1.0], ids=["sparse", "dense"])
def test_all_sent_without_masking_is_momentum_sgd_of_the_mean(rho: float, nesterov: bool) -> None:
    here = dgc(rho, nesterov, masking=False)
    for number in range(1, 9):
        here.round(number)
    assert [*here.arrived[0][SPARSE]] == (["w", "v"] if rho < 1 else [])
    assert_close(here.model, sgd(here.turn, 8, MU, nesterov), 8)


def test_all_sent_with_masking_is_plain_sgd() -> None:
    here = dgc(ALL)
    for number in range(1, 9):
        here.round(number)
    plain, momentum = sgd(here.turn, 8, 0), sgd(here.turn, 8, MU)
    assert_close({n: here.model[n] for n in ("w", "v")}, {n: plain[n] for n in ("w", "v")}, 8)
    assert_close(here.model, {n: momentum[n] for n in ("bias", "one")}, 8)


@pytest.mark.parametrize("masking", [False, True])
def test_what_is_sent_leaves_v_and_u_and_the_rest_stays(masking: bool) -> None:
    here = dgc(0.1, masking=masking)
    u_sum = {k: {n: np.zeros(THETA0[n].shape) for n in ("w", "v")} for k in range(N)}
    sent = {k: {n: np.zeros(THETA0[n].shape) for n in ("w", "v")} for k in range(N)}
    for number in range(1, 12):
        before = {k: parted(m) for k, m in here.memory.items()}
        x = here.model
        lost = [1] if number % 4 == 0 else []
        here.round(number, lost=lost)
        for k in range(N):
            u, v = parted(here.memory[k])
            if k in lost:
                assert all(same(a, b) for a, b in zip((u, v), before[k], strict=True))
                continue
            g = here.turn.gradient(k, x)
            for n in u:
                mask = here.arrived[k][SPARSE][n] != 0
                moved = np.float32(MU) * before[k][0][n] + (x[n] - (x[n] - g[n]))
                assert mask.sum() == math.ceil(0.1 * mask.size)
                assert (v[n][mask] == 0).all()
                np.testing.assert_array_equal(u[n][~mask], moved[~mask])
                np.testing.assert_array_equal(v[n][~mask], (before[k][1][n] + moved)[~mask])
                assert (u[n][mask] == 0).all() == masking
                u_sum[k][n] += moved
                sent[k][n] += here.arrived[k][SPARSE][n]
                if not masking:
                    total = sent[k][n] + v[n]
                    bound = 30 * number * EPS * np.abs(u_sum[k][n]).max()
                    np.testing.assert_allclose(total, u_sum[k][n], rtol=0, atol=bound)


def test_what_a_codec_rounds_off_stays_in_v() -> None:
    def lossy(form: str, part: str, tree):
        return {n: np.asarray(np.rint(4 * x) / 4, np.float32) for n, x in tree.items()}

    here = dgc(0.1, lossy=lossy)
    u_sum, sent = np.zeros((10, 10)), np.zeros((10, 10))
    for number in range(1, 8):
        x, u = here.model, parted(here.memory[0])[0]
        here.round(number)
        u_sum += np.float32(MU) * u["w"] + (x["w"] - here.turn(0, x)["w"])
        sent += here.arrived[0][SPARSE]["w"]
    exact = here.answers[0].parts[SPARSE]["w"]
    assert (exact != here.arrived[0][SPARSE]["w"]).any()
    v = parted(here.memory[0])[1]["w"]
    np.testing.assert_allclose(sent + v, u_sum, rtol=0, atol=300 * EPS * np.abs(u_sum).max())


@pytest.mark.parametrize(
    ("mu", "codec"),
    [
        (0.0, error_feedback(chain(top_k(0.1), fp32()))),
        (MU, momentum_correction(chain(top_k(0.1), fp32()), MU)),
    ],
    ids=["error feedback", "momentum correction"],
)
def test_at_one_density_it_is_the_codec_of_that_name(mu: float, codec) -> None:
    here = dgc(0.1, mu=mu)
    state = codec.init(here.method.like(SPARSE, THETA0))
    for number in range(1, 7):
        x = here.model
        here.round(number)
        y = here.turn(0, x)
        g = {n: x[n] - y[n] for n in ("w", "v")}
        wire, state = codec.encode(g, state, g)
        assert same(here.arrived[0][SPARSE], receive(codec, wire, g, ())[0])


@given(
    n=st.integers(1, 6000),
    rho=st.sampled_from([0.001, 0.01, 0.05, 0.3]),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["normal", "cauchy", "zeros", "equal"]),
)
@settings(max_examples=60, deadline=None)
def test_no_more_than_the_density_is_chosen_and_never_much_less(n, rho, seed, kind) -> None:
    rng = np.random.default_rng(seed)
    v = {
        "normal": rng.standard_normal(n),
        "cauchy": rng.standard_cauchy(n),
        "zeros": rng.standard_normal(n) * (rng.random(n) < rho / 2),
        "equal": np.ones(n),
    }[kind].astype(np.float32)
    k = math.ceil(rho * n)
    exact, sampled = chosen(v, rho, None), chosen(v, rho, rng)
    assert exact.sum() == k
    assert 0.8 * k <= sampled.sum() <= k
    assert np.abs(v)[exact].min() >= np.abs(v)[~exact].max(initial=0)
    # What the sample's threshold leaves out is smaller than what it takes, as of the exact one.
    assert np.abs(v)[sampled].min() >= np.abs(v)[~sampled].max(initial=0)
    if n <= 1 / rho:
        assert k == 1
    elif n < 2 / rho:  # the authors' code warns of "1 element" here, and sends two
        assert k == 2


def test_the_estimate_from_a_sample_is_near_the_exact_threshold() -> None:
    counts = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        v = rng.standard_normal(200_000).astype(np.float32)
        counts.append(chosen(v, 0.01, rng).sum() / 2000)
    assert 0.8 <= min(counts) <= max(counts) <= 1
    assert np.mean(counts) > 0.9


def test_the_density_falls_to_rho_in_the_warmup() -> None:
    found = [density(0.001, 4, number) for number in range(1, 8)]
    np.testing.assert_allclose(found[:5], [0.2512, 0.0631, 0.01585, 0.00398, 0.001], rtol=1e-3)
    assert found[5:] == [0.001, 0.001]
    assert density(0.01, 0, 1) == 0.01
    here = dgc(0.01, warmup_rounds=1)
    for number, k in ((1, 10), (2, 1), (3, 1)):
        here.round(number)
        assert np.count_nonzero(here.arrived[0][SPARSE]["w"]) == k


def test_the_server_goes_eta_times_as_far() -> None:
    whole, half = dgc(0.3), dgc(0.3)
    half.strategy.eta = 0.5
    for here in (whole, half):
        here.round(1)
    for n, x in whole.model.items():
        np.testing.assert_allclose(half.model[n], x / 2, rtol=4 * EPS)


def test_a_gradient_is_no_longer_than_its_share_of_the_bound() -> None:
    here = dgc(1.0, mu=0.0, clipping_norm=0.5)
    here.round(1)
    for k in range(N):
        g, full = here.arrived[k][DENSE], here.turn.gradient(k, THETA0)
        length, before = (
            np.sqrt(sum((x.astype(float) ** 2).sum() for x in t.values())) for t in (g, full)
        )
        np.testing.assert_allclose(length, 0.5 / np.sqrt(N), rtol=10 * EPS)
        for n, x in full.items():
            np.testing.assert_allclose(g[n], x * (length / before), rtol=10 * EPS, atol=EPS)


def test_a_resumed_run_goes_on_bit_for_bit_and_sends_what_it_should(tmp_path: Path) -> None:
    words = "experiment=dgc strategy.local.rho=0.02 strategy.local.warmup_rounds=1"
    whole = check_goes_on(tmp_path, words)
    # fp16 values, and a Golomb code of the gaps: log2(1/rho) + 2 bits.
    sizes = [x.size for x in whole.here.theta0.values()]
    for row in whole.ledger.rows:
        if row.direction == "up" and row.payload_bytes:
            rho = density(0.02, 1, row.round)
            k = sum(math.ceil(rho * n) for n in sizes)
            assert row.scalars == scalars(whole.here.theta0)
            assert row.payload_bytes <= 2 * k + k * (math.log2(1 / rho) + 2.5) / 8 + 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.local.mu=0.5", "strategy.local.mu=0.5 should be strategy.inner.mu=0.9"),
        ("strategy.local.rho=0", "rho=0 should be in"),
        ("strategy.local.threshold=some", "threshold=some should be exact or sampled"),
        ("strategy.local.warmup_rounds=-1", "warmup_rounds=-1 should be a whole number"),
        ("strategy.local.clipping_norm=0", "clipping_norm=0 should be in"),
        (
            "strategy.local.clipping_norm=1.0 strategy.local.workers=2",
            "workers=2 should be clients_",
        ),
        ("federation.sampling=nodes", "DGCClient remembers something of each client: set it to"),
        ("codec=sign", "nonzero: .*error_feedback|nonzero: 'chain' remembers"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=1 strategy=dgc codec=fp32 {words}"))


@pytest.mark.parametrize(("rounds", "says"), [(4, True), (5, False)])
def test_a_warm_up_that_is_longer_than_the_run_is_told(rounds: int, says: bool, caplog) -> None:
    check(compose(f"strategy=dgc codec=fp32 rounds={rounds} strategy.local.warmup_rounds=4"))
    assert ("the density never falls to rho" in caplog.text) == says
