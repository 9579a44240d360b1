"""1-bit Adam: the invariants of both halves, on quadratics that no two clients agree on."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.supercore.task_identity import TaskIdentity

from fl_app.aggregation.inner import EVERYONE, inner_strategy
from fl_app.codecs import fp32, sign
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.tree import scalars
from fl_app.wire.records import to_tree
from strategies.onebit_adam import (
    FIRST,
    GRADIENT,
    MISSED,
    MOMENTUM,
    SIGNS,
    OneBitAdam,
    OneBitAdamClient,
    parted,
    raised,
)  # fmt: skip
from tests.server.test_coded import Rounds, drop, same
from tests.strategies.federation import Federation, Quadratics

EPS = float(np.finfo(np.float32).eps)
N, B1, B2, ETA, TAU = 4, 0.9, 0.99, 0.05, 1e-3
C = sign(scale="norm")
THETA0 = {
    "w": np.zeros((6, 5), np.float32),
    "bias": np.zeros(3, np.float32),
    "one": np.zeros((), np.float32),
}


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def coded(form: str, part: str, tree):
    """Return what arrives: z by the signs, a gradient as it is."""
    if part == GRADIENT:
        return tree
    return C.decode(C.encode(tree, (), tree)[0], tree)


class Masked(Quadratics):
    """The first row of w has no gradient, ever."""

    def gradient(self, client, x):
        found = super().gradient(client, x)
        found["w"][0] = 0
        return found


def onebit(freeze: int, clients: int = N, floor: float = 0.0, decay: float = 1.0, lossy=coded):
    strategy = OneBitAdam(freeze, B1, B2, ETA, TAU, floor, **EVERYONE)
    method = OneBitAdamClient(B1, ETA, TAU, decay)
    return Federation(strategy, method, Masked(THETA0, clients), THETA0, clients, lossy)


def adam(problem: Quadratics, rounds: int, freeze: int):
    """Return x of Adam without bias correction, in float64, whose v stays after ``freeze``."""
    x, m, v = ({n: np.zeros(t.shape) for n, t in THETA0.items()} for _ in range(3))
    for number in range(1, rounds + 1):
        g = problem.mean_gradient({n: t.astype(np.float32) for n, t in x.items()})
        for n in x:
            m[n] = B1 * m[n] + (1 - B1) * g[n]
            if number <= freeze:
                v[n] = B2 * v[n] + (1 - B2) * g[n] ** 2
            x[n] = x[n] - ETA * m[n] / (np.sqrt(v[n]) + TAU)
    return x


@pytest.mark.parametrize("freeze", [100, 3], ids=["warm-up alone", "identity for C"])
def test_without_signs_it_is_adam_with_that_variance(freeze: int) -> None:
    here = onebit(freeze, lossy=lambda form, part, tree: tree)
    here.strategy.compressor = fp32()
    for number in range(1, 13):
        here.round(number)
    for n, x in adam(here.turn, 12, freeze).items():
        np.testing.assert_allclose(here.model[n], x, rtol=0, atol=12 * 200 * EPS)


def test_the_variance_stays_and_what_is_sent_changes_at_freezing() -> None:
    here = onebit(3)
    for number in range(1, 9):
        here.round(number)
        parts = {part for answer in here.answers.values() for part in answer.parts}
        assert parts == {GRADIENT if number <= 3 else MOMENTUM}
        forms = {given.form for given in here.given.values()}
        assert forms == {"default" if number <= 3 else FIRST if number == 4 else SIGNS}
        v = here.strategy.v
        if number == 3:
            frozen = {n: x.copy() for n, x in v.items()}
        if number >= 3:
            assert same(v, frozen)
    assert (v["w"][0] == 0).all()
    assert (v["w"][1:] > 0).all()


def test_everyone_holds_the_servers_model_and_momentum_whoever_took_part() -> None:
    here, seen = onebit(2), set()
    for number in range(1, 25):
        rng = np.random.default_rng(number)
        clients = sorted(rng.choice(N, 2, replace=False).tolist())
        before, m = here.model, here.strategy.m
        here.round(number, clients, lost=clients[:1] if number % 5 == 0 else ())
        for given in here.given.values():
            seen.add(given.form)
            if number > 2:
                assert same(given.parts[MOMENTUM], m)
                x = {n: p.detach().numpy() for n, p in given.model.named_parameters()}
                assert same(x, before)
                assert ("model" in given.parts) == (given.form != SIGNS)
    assert seen == {"default", FIRST, MISSED, SIGNS}
    forms = {}
    for number, clients in ((25, [0, 1]), (26, [0, 2]), (27, [0, 1])):
        here.round(number, clients, lost=[0] if number == 26 else ())
        forms[number] = {k: given.form for k, given in here.given.items()}
    assert forms[26][0] == SIGNS
    assert forms[27] == {0: FIRST, 1: MISSED}  # the reply of 0 was lost


def test_nothing_is_lost_between_what_should_and_what_was_sent() -> None:
    here = onebit(2)
    should = {k: {n: np.zeros(x.shape) for n, x in THETA0.items()} for k in range(N)}
    sent = {k: {n: np.zeros(x.shape) for n, x in THETA0.items()} for k in range(N)}
    for number in range(1, 20):
        x, m = here.model, here.strategy.m
        here.round(number)
        if number <= 2:
            continue
        for k in range(N):
            v, y = here.strategy.v, here.turn(k, x)
            for n in x:
                m_i = np.float32(B1) * m[n] + np.float32(1 - B1) * (x[n] - y[n])
                should[k][n] += np.where(v[n] > 0, m_i, 0)
                sent[k][n] += np.where(v[n] > 0, here.arrived[k][MOMENTUM][n], 0)
    for k in range(N):
        _, _, e = parted(here.memory[k])
        for n, x in e.items():
            bound = 40 * EPS * (np.abs(should[k][n]) + np.abs(sent[k][n])).max()
            np.testing.assert_allclose(should[k][n] - sent[k][n], x, rtol=0, atol=bound)


def test_what_never_had_a_gradient_never_moves() -> None:
    here = onebit(2, floor=0.5)
    for number in range(1, 15):
        here.round(number)
    assert (here.model["w"][0] == 0).all()
    assert (here.model["w"][1:] != 0).all()
    for memory in here.memory.values():
        assert (parted(memory)[2]["w"][0] == 0).all()
    assert (here.strategy.error["w"][0] == 0).all()


def test_it_comes_near_the_optimum_of_all_clients() -> None:
    here = onebit(10, floor=0.1)
    distance = {}
    best = {
        n: sum(a[n] * b[n] for a, b in zip(here.turn.a, here.turn.b, strict=True))
        / sum(a[n] for a in here.turn.a)
        for n in THETA0
    }
    for number in range(1, 301):
        model = here.round(number)
        distance[number] = np.abs(model["w"][1:] - best["w"][1:]).mean()
    assert np.mean([distance[k] for k in range(250, 301)]) < 0.15 * distance[1]


def test_one_client_has_signs_that_the_server_need_not_round() -> None:
    here = onebit(2, clients=1)
    here.turn = Quadratics(THETA0, 1)  # without the masked row
    for number in range(1, 12):
        here.round(number)
        if number > 2:
            assert same(here.strategy.m, here.arrived[0][MOMENTUM])
            assert not any(x.any() for x in here.strategy.error.values())


def test_signs_keep_the_norm_in_a_bit_a_value() -> None:
    for seed, d in enumerate((1, 7, 8, 1000)):
        z = {"z": np.random.default_rng(seed).standard_normal(d).astype(np.float32)}
        wire = C.encode(z, (), z)[0]
        assert wire.nbytes == -(-d // 8) + 4
        found = C.decode(wire, z)["z"]
        lengths = [np.linalg.norm(x.astype(np.float64)) for x in (found, z["z"])]
        np.testing.assert_allclose(*lengths, rtol=4 * EPS)
    zero = {"z": np.zeros(3, np.float32)}
    assert C.encode(zero, (), zero)[0].sections[1] == b"\0"  # the sign of 0 is +


def test_a_small_variance_is_raised_and_none_stays_none() -> None:
    low, high = onebit(2), onebit(2, floor=0.5)
    for here in (low, high):
        here.round(1)
        here.round(2)
    assert all(
        same({"v": raised(v, 0.5)}, {"v": high.strategy.v[n]}) for n, v in low.strategy.v.items()
    )
    assert not same(low.strategy.v, high.strategy.v)
    v = np.array([0, 1e-9, 1, 3], np.float32)
    assert raised(v, 0.5).tolist() == [0, 0.5, 1, 3]
    assert same({"v": raised(v, 0.0)}, {"v": v})


def test_the_error_of_a_client_that_was_away_decays() -> None:
    here = onebit(1, decay=0.0)
    for number, clients in ((1, [0, 1]), (2, [0, 1]), (3, [1])):
        here.round(number, clients)
    x, m, v = here.model, here.strategy.m, here.strategy.v
    here.round(4, [0, 1])
    for k in (0, 1):
        y = here.turn(k, x)
        z = {n: np.float32(B1) * m[n] + np.float32(1 - B1) * (x[n] - y[n]) for n in x}
        z = {n: np.where(v[n] > 0, one, np.float32(0)) for n, one in z.items()}
        assert same(here.answers[k].parts[MOMENTUM], z) == (k == 0)


def test_a_client_that_lost_its_memory_says_so_and_gets_all_anew() -> None:
    here = onebit(1)
    for number in (1, 2):
        here.round(number)
    here.memory[0] = here.method.start(THETA0)
    with pytest.raises(FaultError) as found:
        here.round(3, [0])
    assert found.value.kind == "lost_memory"
    here.round(4, [0])
    assert here.given[0].form == FIRST


def test_a_resumed_run_goes_on_bit_for_bit_and_signs_are_a_bit_a_value(tmp_path: Path) -> None:
    words = "experiment=onebit_adam clients_per_round=2 strategy.inner.freeze=1"
    whole = Rounds(tmp_path, words, tamper={1: drop})
    for number in (1, 2, 3, 4):
        whole.round(number)
    state, arrays = whole.coded.state(whole.arrays), whole.arrays
    cut = Coded(inner_strategy(whole.here.cfg), whole.here, whole.ledger)
    cut.restore(state, arrays)
    kept = {node: dict(c.state.items()) for node, c in whole.grid.contexts.items()}
    expected, rows = whole.round(5)[0], [*whole.ledger.rows]
    for node, context in whole.grid.contexts.items():
        context.state.clear()
        context.state.update(kept[node])
    messages = cut.configure_train(5, arrays, ConfigRecord(), whole.grid)
    after, _ = cut.aggregate_train(5, whole.grid.send_and_receive(messages))
    assert same(to_tree(after, like=whole.here.theta0), expected)
    theta0 = whole.here.theta0
    d, signs = scalars(theta0), -(-scalars(theta0) // 8) + 4 * len(theta0)
    before: dict[int, int] = {}
    for row in rows:
        if row.direction == "up" and row.payload_bytes:
            assert row.payload_bytes == (4 * d if row.round == 1 else signs)
        elif row.direction == "down" and row.round > 1:
            last = before.get(row.partition, 0)
            whole_model = 3 * 4 * d if last < 2 else 4 * d + signs
            assert row.payload_bytes == (signs if 2 <= last == row.round - 1 else whole_model)
        if row.direction == "up":
            before[row.partition] = row.round if row.payload_bytes else 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.local.eta=1", "strategy.local.eta=1 should be strategy.inner.eta=0.01"),
        ("strategy.inner.freeze=0", "freeze=0 should be a whole number from 1"),
        ("strategy.local.decay=2", "decay=2 should be in"),
        ("codec.down={id:nf4}", "codec.down=nf4, but clients that get signs"),
        ("federation.sampling=nodes", "must be known: set it to partitions"),
        (
            "codec.up={id:error_feedback,inner:{id:nf4}}",
            "a codec that remembers has to be the same",
        ),
        ("strategy.inner.scope=half", "scope must be"),
        ("strategy.inner.freeze=x", "freeze=x should be a whole number from 1"),
        ("strategy.inner.steady=0.04 rounds=100", "100 rounds before, and the run has rounds=100"),
        ("~strategy.forms.missed", "strategy.forms lacks missed"),
        ("strategy.forms.first.up.momentum.scale=mean", "missed.down.momentum should be"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 strategy=onebit_adam codec=fp32"
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{run} {words}"))


@pytest.mark.parametrize(("freeze", "says"), [(6, True), (5, False)])
def test_a_warm_up_that_is_longer_than_the_run_is_told(freeze: int, says: bool, caplog) -> None:
    """One as long as the run is dense Adam, the baseline."""
    check(compose(f"strategy=onebit_adam codec=fp32 rounds=5 strategy.inner.freeze={freeze}"))
    assert ("no sign is ever sent" in caplog.text) == says


def test_the_warm_up_goes_on_until_replies_of_its_last_round_have_come(tmp_path: Path) -> None:
    words = (
        "strategy=onebit_adam codec=fp32 clients_per_round=3 strategy.inner.freeze=1 link=lossy "
        "link.up.loss=0.0 federation.max_failures=0.9"
    )
    here = Rounds(tmp_path, words)
    link = here.coded.uplink.link
    link.is_lost = lambda client, direction, number: direction == "up" and number == 1
    here.round(1)
    assert same(here.tree, here.here.theta0)
    for number, kind in ((2, "gradient"), (3, "momentum"), (4, "momentum")):
        here.round(number)
        ups = [r.codec for r in here.ledger.rows if (r.round, r.direction) == (number, "up")]
        assert len(ups) == 3
        assert all(codec.startswith(kind) for codec in ups)


def test_with_steady_the_warm_up_lasts_until_v_hardly_changes() -> None:
    here = onebit(3)
    here.strategy.b2, here.strategy.steady, lag = 0.8, 0.2, 5
    sums: list[float] = []
    for number in range(1, 60):
        here.round(number)
        sums.append(sum(float(v.astype(float).sum()) for v in here.strategy.v.values()))
        changed = abs(1 - sums[-1 - lag] / sums[-1]) if number > lag else 1.0
        assert here.strategy.frozen == (changed <= 0.2)
        if here.strategy.frozen:
            break
    assert lag < number < 59
    here.round(number + 1)
    assert {part for answer in here.answers.values() for part in answer.parts} == {MOMENTUM}
