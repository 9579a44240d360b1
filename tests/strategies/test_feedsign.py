"""FeedSign: votes, their majority and its replay, on quadratics and through the codecs."""

from pathlib import Path

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from fl_app.aggregation.inner import EVERYONE
from fl_app.codecs import from_spec
from fl_app.codecs.parts.groups import concatenate
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.training.zeroth_order import direction
from fl_app.tree import digest, scalars
from fl_app.wire.frame import pack
from fl_app.wire.ledger import CLIPPED
from strategies.feedsign import (
    NEXT,
    ORBIT,
    ROUND,
    VALUES,
    VOTES,
    FeedSign,
    FeedSignClient,
    W,
    after,
    signs,
)
from tests.messages import put
from tests.server.test_coded import Rounds
from tests.server.test_parts import check_goes_on
from tests.strategies.test_fedkseed import EPS, MASTER, THETA0, D, Slopes
from tests.strategies.test_scallion import check_no_secure_sums

N, P, ROUNDS, ETA = 5, 6, 2000, 0.05


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def feedsign(directions: int = P, steps: int = 1, clients: int = N, eta: float = ETA) -> Slopes:
    shared = {"directions": directions, "rounds": ROUNDS, "master": MASTER, "eta": eta}
    strategy = FeedSign(**shared, **EVERYONE)
    return Slopes(FeedSignClient(**shared, eps=1e-3), strategy, steps, clients)


def held(here: Slopes, client: int) -> str:
    """Return the digest of the model that a client had in its last turn."""
    return digest(here.given[client].model.tree)


def test_all_hold_the_same_bits_whoever_took_part_and_what_was_lost() -> None:
    here, forms = feedsign(), set()
    for number in range(1, 20):
        rng = np.random.default_rng(number)
        clients = sorted(rng.choice(N, 3, replace=False).tolist())
        before = digest(here.model)
        here.round(number, clients, lost=clients[:1] if number % 4 == 0 else ())
        assert {held(here, k) for k in clients} == {before}
        forms |= {given.form for given in here.given.values()}
    assert forms == {"default", NEXT}


def test_replay_of_the_votes_is_the_model_bit_for_bit() -> None:
    here = feedsign()
    for number in range(1, 9):
        here.round(number)
    w = after(concatenate(THETA0), here.strategy.orbit[:8], 1, ETA, MASTER)
    assert (w == concatenate(here.model)).all()


def test_a_step_has_the_length_of_its_direction() -> None:
    here = feedsign(directions=1)
    for number in range(1, 30):
        before = concatenate(here.model).astype(float)
        step = concatenate(here.round(number)).astype(float) - before
        expected = ETA * np.linalg.norm(direction(MASTER, number - 1, D).astype(float))
        assert abs(np.linalg.norm(step) - expected) <= 4 * EPS * np.linalg.norm(before)


def test_identical_clients_are_one_client() -> None:
    found = set()
    for clients in (1, 2, 5):
        here = feedsign(clients=clients)
        here.b = [here.b[0]] * clients
        for number in range(1, 6):
            here.round(number)
        found.add(digest(here.model))
    assert len(found) == 1


def test_one_client_alone_takes_steps_against_the_sign_of_its_slope() -> None:
    here = feedsign(directions=1, clients=1)
    x = concatenate(here.model).astype(float)
    for number in range(1, 40):
        z = direction(MASTER, number - 1, D).astype(float)
        x = x - ETA * np.sign((x - here.b[0]) @ z) * z  # rho of a quadratic is g.z
        here.round(number)
        np.testing.assert_allclose(concatenate(here.model), x, rtol=0, atol=number * 20 * EPS)


def test_the_scale_of_a_loss_changes_nothing() -> None:
    here, other = feedsign(), feedsign()
    other.scale = [0.001, 1.0, 7.0, 1e4, 1.0]
    for number in range(1, 6):
        here.round(number)
        other.round(number)
    assert digest(here.model) == digest(other.model)


@pytest.mark.parametrize("hostile", range(N + 1))
def test_a_client_has_one_vote_and_fewer_than_half_change_no_unanimous_decision(
    hostile: int,
) -> None:
    """The first ``hostile`` clients send the opposite of their votes, and enormous ones."""
    honest, here, sent = feedsign(), feedsign(), []
    for one in (honest, here):
        one.b = [one.b[0]] * N
    honest.round(1)

    def loud(form, part, tree):
        sent.append(part)
        return {n: x * (-1e6 if len(sent) <= hostile else 1) for n, x in tree.items()}

    here.lossy = loud
    here.round(1)
    assert sent == [VOTES] * N
    decision = honest.strategy.orbit[0] * (1 if 2 * hostile < N else -1)
    assert (here.strategy.orbit[0] == decision).all()


def test_a_direction_and_its_opposite_with_the_opposite_vote_are_the_same_step() -> None:
    w, z = concatenate(THETA0), direction(MASTER, 0, D)
    for f in (1.0, -1.0):
        step = after(w, np.array([[f]]), 1, ETA, MASTER)
        assert (step == w - np.float32(ETA * -f) * -z).all()


def test_the_loss_falls_to_a_floor_that_eta_lowers() -> None:
    floors = []
    for eta, rounds in ((0.1, 80), (0.03, 160)):
        here = feedsign(directions=1, clients=1, eta=eta)
        here.b = [concatenate(THETA0).astype(float) + 0.5]
        losses = [here.loss(0, here.round(number)) for number in range(1, rounds)]
        floors.append(np.mean(losses[-40:]))
        assert floors[-1] < 0.6 * losses[0]
    assert floors[1] < 0.5 * floors[0]


@pytest.mark.parametrize("steps", [1, 4, 6, 15])
def test_every_direction_has_a_slope_by_its_own_sign(steps: int) -> None:
    """However many steps there are, on a quadratic the sign of all slopes is that of g.z."""
    here = feedsign(steps=steps)
    x = concatenate(here.model).astype(float)
    here.round(1)
    for k, answer in here.answers.items():
        expected = [np.sign((x - here.b[k]) @ direction(MASTER, p, D)) for p in range(P)]
        assert answer.parts[VOTES][VALUES].ravel().tolist() == expected


def test_a_tie_is_plus() -> None:
    assert signs(np.array([0.0, -0.0, -1e-9, 3.0])).tolist() == [1, 1, -1, 1]


def test_a_client_that_lost_its_memory_says_so_and_gets_all_votes_then() -> None:
    here = feedsign()
    for number in (1, 2):
        here.round(number)
    here.memory[0] = here.method.start(THETA0)
    with pytest.raises(FaultError) as found:
        here.round(3, [0])
    assert found.value.kind == "lost_memory"
    here.round(3, [1])
    before = digest(here.model)
    here.round(4, [0, 1])
    assert here.given[0].form == "default"
    assert held(here, 0) == before
    assert here.memory[0][ROUND] == 4
    assert {f"{W}{n}" for n in THETA0} < {*here.memory[0]}


def test_votes_are_bits_whatever_the_model_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    words = "experiment=feedsign adapter.r=2 batch_size=1 local_epochs=1 clients_per_round=2"
    rounds = check_goes_on(tmp_path, f"{words} strategy.inner.directions=8")
    rows = [row for row in rounds.ledger.rows if row.kind == "train"]
    assert {row.payload_bytes for row in rows if row.direction == "up"} == {8 // 8}
    took_part = {(row.partition, row.round) for row in rows if row.direction == "up"}
    for row in rows:
        if row.direction == "down" and row.round == 1:
            assert row.payload_bytes == 0  # at first all is known
        elif row.direction == "down":
            follows = (row.partition, row.round - 1) in took_part
            assert row.payload_bytes == (1 if follows else 9)  # of the run's 9 rounds
    half = rounds.here.method
    for part, count in ((VOTES, 8), (ORBIT, 8 * 9)):
        assert half.like(part, THETA0)[VALUES].size == count < scalars(rounds.here.theta0)


@pytest.mark.parametrize("directions", [1, 8])
def test_votes_are_counted_as_they_came_whatever_bounds_updates(
    tmp_path: Path, directions: int
) -> None:
    words = "experiment=feedsign adapter.r=2 clients_per_round=3 federation.max_update_rms=0.01 "
    rounds = Rounds(tmp_path, f"{words} strategy.inner.directions={directions}")
    codec = rounds.here.forms["default"].up.whole
    like = {f"{VOTES}/{VALUES}": np.ones((1, directions), np.float32)}
    wire, _ = codec.encode({n: -x for n, x in like.items()}, codec.init(like), like)
    down = pack(wire, codec, rounds.here.manifest)
    rounds.grid.tamper = dict.fromkeys(range(3), lambda reply: put(reply, down))
    rounds.round(1)
    assert (rounds.coded.inner.orbit[0] == -1).all()
    assert not any(row.outcome == CLIPPED for row in rounds.ledger.rows)


def test_who_was_away_gets_a_bit_for_each_vote_of_the_run(tmp_path: Path) -> None:
    codec = from_spec({"id": "sign", "scale": "one"})
    ref = FeedSignClient(24, 9, 0, 1.0, 1.0).like(ORBIT, THETA0)
    wire, _ = codec.encode(ref, codec.init(ref), ref)
    assert wire.nbytes == 24 * 9 // 8
    assert (codec.decode(wire, ref)[VALUES] == 1).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.directions=0", "directions=0 should be a whole number from 1 to 4096"),
        (
            "strategy.inner.directions=9999",
            "directions=9999 should be a whole number from 1 to 4096",
        ),
        ("strategy.inner.master=-1", "master=-1 should be a whole number from 0"),
        (
            f"strategy.inner.master={2**64}",
            "should be a whole number from 0 to 18446744073709551615",
        ),
        ("adapter=sign_mask", "a probe changes none, and its slope is 0: set adapter=lora"),
        ("strategy.inner.eta=0", r"eta=0 should be in \(0, inf\)"),
        ("strategy.local.eps=0", r"eps=0 should be in \(0, inf\)"),
        ("strategy.local.eta=3", "strategy.local.eta=3 should be strategy.inner.eta"),
        ("strategy.inner.rounds=3", "strategy.inner.rounds=3 should be rounds="),
        ("federation.sampling=nodes", "must be known: set it to partitions"),
        ("codec=nf4", "where both ends rebuild the model"),
        ("privacy=dp_sgd", "this method has none: set privacy=none"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 strategy=feedsign codec=fp32"
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{run} {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("feedsign")
