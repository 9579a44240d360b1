"""The rate controller: the laws of its ladder, and levels that real rounds take over links."""

import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE, Cohort
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.wire.envelope import question
from fl_app.wire.ledger import short_name
from fl_app.wire.messages import BYTES, FORM, TRAVEL, TRAVEL_SECONDS
from strategies.rate_control import LEAST_SECONDS, RateControl, fitting, gaussian_bytes, next_level
from tests.messages import who
from tests.server.test_coded import Rounds, same
from tests.server.test_parts import whole_and_resumed
from tests.strategies.test_scaffold import identity  # noqa: F401

RUN = "strategy=rate_control codec=thin codec.down={id:fp32} codec.reference=theta0"
LINK = "link=lossy link.up.loss=0.0 link.up.rate={:g}"
FLOOR, NF4, FP16 = range(3)
DEADLINE = 10.0

ladders = st.lists(st.integers(1, 10**9), min_size=1, max_size=6, unique=True).map(sorted)
budgets = st.floats(0, 2e9)


@given(ladders, st.lists(st.tuples(budgets, budgets), min_size=1, max_size=9))
def test_more_rate_never_means_less_than_a_level_less(sizes, rounds) -> None:
    levels: tuple[int | None, int | None] = (None, None)
    for pair in rounds:
        levels = tuple(
            next_level(budget, sizes, level)
            for budget, level in zip(sorted(pair), levels, strict=True)
        )
        assert levels[1] >= levels[0] - 1
        for budget, level in zip(sorted(pair), levels, strict=True):
            assert level == FLOOR or sizes[level] <= budget
            assert fitting(budget, sizes) - 1 <= level <= fitting(budget, sizes)


@given(ladders, st.tuples(budgets, budgets), st.integers(0, 5))
def test_from_the_same_level_more_rate_never_means_less(sizes, pair, level) -> None:
    before = min(level, len(sizes) - 1)
    low, high = (next_level(budget, sizes, before) for budget in sorted(pair))
    assert low <= high


def test_a_link_between_two_levels_does_not_change_them_every_round() -> None:
    sizes, level, seen = [10, 20, 40], None, []
    for budget in (50, 25, 15, 25, 15, 25, 45, 45, 30, 39, 9):
        level = next_level(budget, sizes, level)
        seen.append(level)
    assert seen == [2, 1, 0, 0, 0, 0, 2, 2, 1, 1, 0]


def levels(rounds: Rounds) -> dict[int, int]:
    """Return what the messages of the last round say, by client."""
    found = {}
    for message in rounds.grid.sent:
        said, _ = question(message, rounds.here.manifest)
        found[who(message)] = said.get(FORM, FLOOR)
    rounds.grid.sent.clear()
    return found


def run(folder: Path, words: str, count: int) -> tuple[Rounds, list[dict[int, int]]]:
    """Return ``count`` rounds, and the levels that their messages said."""
    rounds = Rounds(folder, words)
    rounds.coded.clients.find(rounds.grid)
    rounds.grid.sent.clear()
    said = []
    for number in range(1, count + 1):
        rounds.round(number)
        said.append(levels(rounds))
    return rounds, said


def test_every_client_gets_the_best_level_that_its_link_has_room_for(tmp_path: Path) -> None:
    """Without delay, goodput is the rate; and each level arrives as its codec decodes it."""
    sizes = {}
    for level, rate in ((FLOOR, 100), (NF4, 60e3), (FP16, 1e9)):
        folder = tmp_path / str(level)
        folder.mkdir()
        words = f"{RUN} {LINK.format(rate)} clients_per_round=1 strategy.sampler=cyclic"
        rounds, said = run(folder, f"federation.clients=1 {words}", 2)
        assert said == [{0: FLOOR}, {0: level}]  # nothing is known of the link in round 1
        form = [*rounds.here.forms.values()][level]
        up = [row for row in rounds.ledger.rows if (row.round, row.direction) == (2, "up")]
        assert [row.codec for row in up] == [short_name(form.up.whole.spec)]
        sizes[level] = up[0].message_bytes
        budget = rate / 8 * DEADLINE * 0.8
        assert level == FLOOR or up[0].message_bytes <= budget
        first = Rounds(folder, f"federation.clients=1 {words}")
        first.round(1)
        codec, theta0 = form.up.whole, rounds.here.theta0
        trained = rounds.client(0, 2, first.tree)
        wire, _ = codec.encode(trained, codec.init(theta0, 0), theta0)
        assert same(rounds.tree, codec.decode(wire, theta0))
        assert up[0].payload_bytes == wire.nbytes
    assert sizes[FLOOR] < sizes[NF4] < sizes[FP16]


def test_clients_of_one_round_have_levels_of_their_own_and_what_is_lost_costs_goodput(
    tmp_path: Path,
) -> None:
    own = (
        "+link.clients.0='{up: {rate: 100}}' +link.clients.1='{up: {rate: 6e4}}' "
        "+link.clients.2='{up: {rate: 1e9, loss: 0.5}}'"
    )
    words = f"{RUN} {LINK.format(1e9)} {own} clients_per_round=3 federation.max_failures=0.9"
    rounds, said = run(tmp_path, words, 5)
    assert said[0] == dict.fromkeys(range(3), FLOOR)
    strategy, link = rounds.coded.inner, rounds.coded.uplink.link
    lost = [link.is_lost(2, "up", number) for number in range(1, 6)]
    assert {*lost} == {True, False}
    heard = False
    for at, one in enumerate(said):
        if at:
            assert one == {0: FLOOR, 1: NF4, 2: FP16 if heard else FLOOR}
        heard = heard or not lost[at]
    rows = {(r.round, r.partition): r for r in rounds.ledger.rows if r.direction == "up"}
    expected = None
    assert lost[-1]  # which the next round will count
    for number, is_lost in enumerate(lost[:-1], start=1):
        size = rows[number, 2].message_bytes
        now = 0.0 if is_lost else size / max(LEAST_SECONDS, 8 * size / 1e9)
        if expected is not None or not is_lost:
            expected = (now + (now if expected is None else expected)) / 2
    assert strategy.goodput["2"] == pytest.approx(expected)
    assert strategy.goodput["1"] == pytest.approx(6e4 / 8)


def test_a_client_with_huge_replies_changes_no_level_but_its_own() -> None:
    forms = {name: {"up": {"model": {"id": name}}} for name in ("nf4", "fp16")}
    strategy = RateControl(forms, deadline=1.0, **EVERYONE)
    strategy.sizes = {"nf4": {"0": 100, "1": 101, "2": 10**9}}
    guesses = {"fp16": 400}
    assert [strategy._sizes(client, guesses)[0] for client in "0129"] == [100, 101, 10**9, 101]


def test_a_level_has_to_fit_what_is_safe_of_the_deadline_with_its_largest_reply() -> None:
    forms = {name: {"up": {"model": {"id": name}}} for name in ("nf4", "fp16")}
    x = ArrayRecord({"x": Array(np.zeros(4, np.float32))})
    for goodput, level in ((99.0, "nf4"), (101.0, "fp16")):
        strategy = RateControl(forms, deadline=10.0, safety=0.5, smoothing=0.25, **EVERYONE)
        strategy.sizes = {"nf4": {"0": 100}, "fp16": {"0": 500}}
        strategy.goodput = {"0": goodput}
        (message,) = strategy.configure_train(1, x, ConfigRecord(), Cohort([0]))
        assert message.content["config"][FORM] == level
        way = ConfigRecord({BYTES: 90, TRAVEL_SECONDS: 0.9})
        said = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": x, "metrics": said, TRAVEL: way})
        strategy.aggregate_train(1, [Message(content, reply_to=message)])
        assert strategy.sizes == {"nf4": {"0": 100}, "fp16": {"0": 500}}
        assert strategy.goodput["0"] == pytest.approx(0.75 * goodput + 0.25 * 100)


def test_the_guess_of_a_level_is_what_its_codec_writes() -> None:
    x = {"w": np.ones((3, 5), np.float32), "one": np.ones((), np.float32)}
    assert gaussian_bytes({"id": "fp16"}, x) == 32


def test_of_a_real_link_the_time_between_question_and_reply_counts(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, f"{RUN} clients_per_round=1 strategy.inner.deadline=0.05")
    deliver, wait = rounds.grid.deliver, 0.25

    def slow(message):
        reply = deliver(message)
        time.sleep(wait if message.metadata.message_type == "train" else 0)
        return reply

    rounds.grid.deliver = slow
    rounds.round(1)
    ((client, goodput),) = rounds.coded.inner.goodput.items()
    (row,) = [r for r in rounds.ledger.rows if (r.kind, r.direction) == ("train", "up")]
    assert (int(client), 0 < goodput <= row.message_bytes / wait) == (row.partition, True)


def test_a_run_that_goes_on_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    words = (
        f"{RUN} {LINK.format(6e4)} link.up.loss=0.4 link.up.delay=2.0 clients_per_round=2 "
        "federation.max_failures=0.9 seed=4"
    )
    whole, second = whole_and_resumed(tmp_path, words)
    assert second.coded.inner.goodput == whole.coded.inner.goodput != {}
    assert second.coded.inner.level == whole.coded.inner.level != {}
    assert same(second.tree, whole.tree)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.deadline=0", "deadline=0 should be in"),
        ("strategy.inner.safety=1.5", "safety=1.5 should be in"),
        ("strategy.inner.smoothing=0", "smoothing=0 should be in"),
        ("federation.sampling=nodes", "must be known: set it to partitions"),
        ("~strategy.forms.nf4 ~strategy.forms.fp16", "a ladder needs a level above the floor"),
        ("codec=fp32", "nf4 is above default on the ladder, and makes 2,304 bytes of 4,096 values"),
        ("codec=sign", "a codec that remembers has to be the same"),
        ("~strategy.forms.default", "should have default first"),
        ("'strategy.forms.nf4.down.model={id: fp16}'", "the ladder is of replies"),
        ("'+strategy.forms.nf4.up.other={id: fp16}'", "should have the part model alone"),
        ("strategy.forms.nf4=7", "should have `down` and `up`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"strategy=rate_control codec=thin {words}"))


def test_the_experiment_is_valid() -> None:
    check(compose("experiment=rate_control"))
