"""Laws of a simulated link: what it loses, and how long it takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.config import CONF_DIR, ConfigError, compose
from fl_app.preflight import check_values
from fl_app.wire.ledger import Transfer
from fl_app.wire.link import Link

PRESETS = sorted(path.stem for path in (CONF_DIR / "link").glob("*.yaml"))


def link(words: str) -> Link:
    return Link(compose(f"link=lossy {words}"))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_files_of_the_group_are_valid(preset) -> None:
    cfg = compose(f"link={preset}")
    check_values(cfg)
    assert Link(cfg).is_simulated == (preset != "none")


@given(seed=st.integers(0, 2**31), loss=st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=10, deadline=None)
def test_the_share_of_losses_is_the_one_asked_for(seed, loss) -> None:
    """Of n independent draws the share is within 5 deviations, which one in 10^6 is not."""
    found = link(f"seed={seed} link.up.loss={loss}")
    draws = [found.is_lost(c, "up", r) for c in range(20) for r in range(1, 51)]
    assert abs(np.mean(draws) - loss) < 5 * np.sqrt(loss * (1 - loss) / len(draws))
    assert not any(found.is_lost(c, "down", 1) for c in range(20))


def test_bursts_are_as_long_as_asked_for() -> None:
    found = link("link.up.loss=0.25 link.up.burst=4.0 federation.clients=10")
    rounds = [[found.is_lost(c, "up", r) for r in range(1, 401)] for c in range(50)]
    lost = np.array(rounds)
    ends = (lost[:, :-1] & ~lost[:, 1:]).sum()
    assert lost.mean() == pytest.approx(0.25, abs=0.03)
    assert lost.sum() / ends == pytest.approx(4, abs=0.4)


def test_a_seed_loses_the_same_in_any_order() -> None:
    words = "seed=3 link.up.loss=0.5 link.up.burst=2.0"
    forward, backward = link(words), link(words)
    places = [(c, "up", r) for c in range(5) for r in range(1, 30)]
    expected = {place: forward.is_lost(*place) for place in places}
    assert {place: backward.is_lost(*place) for place in reversed(places)} == expected
    assert any(expected.values())
    other = link("seed=4 link.up.loss=0.5 link.up.burst=2.0")
    assert {place: other.is_lost(*place) for place in places} != expected


def test_ways_lose_each_for_itself_and_a_bursty_one_from_the_first_round() -> None:
    words = "link.up.loss=0.5 link.up.burst=9.0 link.down={rate: null, delay: 0.0, loss: 0.5, "
    found = link(words.replace("link.down=", "'link.down=") + "burst: 9.0}' federation.clients=10")
    first = {way: [found.is_lost(c, way, 1) for c in range(200)] for way in ("up", "down")}
    for lost in first.values():
        assert 60 < sum(lost) < 140  # of 200 draws at a half: 5 deviations are 35
    assert first["up"] != first["down"]


def test_single_clients_have_links_of_their_own() -> None:
    found = link("link.up.loss=0.0 '+link.clients.3={up: {loss: 0.99, rate: 8.0}}'")
    assert not any(found.is_lost(c, "up", r) for c in (0, 1, 2) for r in range(1, 30))
    assert sum(found.is_lost(3, "up", r) for r in range(1, 30)) > 20
    assert found.way(3, "up").seconds(5) == 5
    assert found.way(2, "up").seconds(5) == 0


def test_a_round_takes_as_long_as_its_slowest_client() -> None:
    words = "link.up={rate: 800.0, delay: 1.0, loss: 0.0, burst: null} link.down.rate=8000.0"
    rows = [
        Transfer(1, 0, "down", "train", message_bytes=1000),
        Transfer(1, 0, "up", "train", message_bytes=100),
        Transfer(1, 1, "up", "train", message_bytes=50),
        Transfer(2, 1, "up", "train", message_bytes=300),
        Transfer(2, 1, "up", "evaluate", message_bytes=10**6),
    ]
    found = link(words.replace("link.up=", "'link.up=").replace("null}", "null}'"))
    assert found.seconds(rows) == pytest.approx((1 + 1 + 1) + (1 + 3))
    assert found.seconds(rows, until=1) == pytest.approx(3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("link.up.loss=1.0", "link.up.loss=1.0 should be a number in"),
        ("link.up.rate=0.0", "above 0"),
        ("link.down.delay=-1.0", "seconds, at least 0"),
        ("link.up.burst=0.5", "null or rounds, at least 1"),
        ("link.up.loss=0.9 link.up.burst=2.0", "at least 9"),
        ("'+link.clients.99={up: {loss: 0.1}}'", "numbered from 0 to 9"),
        ("link.clients={'01':{up:{loss:0.1}}}", "numbered from 0 to 9"),
        ("'+link.clients.1={up: {los: 0.1}}'", "should have some of rate, delay, loss, burst"),
        ("'+link.clients.1={sideways: {}}'", "should have up or down"),
        ("link.id=real", "should be one of"),
        ("federation.sampling=nodes", "set federation.sampling=partitions"),
        ("strategy=secure_fedavg codec=modular clients_per_round=4", "set link=none"),
    ],
)
def test_what_is_no_link_is_refused(words, says) -> None:
    with pytest.raises((ConfigError, ValueError), match=says.replace("(", r"\(")):
        check_values(compose(f"link=lossy {words}"))


def test_a_run_that_goes_on_late_is_no_deeper_than_one_that_begins() -> None:
    """A client may be asked for the first time after thousands of rounds."""
    found = link("link.up.loss=0.5 link.up.burst=2.0")
    assert found.is_lost(0, "up", 5000) in (True, False)
