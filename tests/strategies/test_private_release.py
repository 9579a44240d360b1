"""Client-level privacy through the codecs: decoded, clipped, averaged, noised, encoded."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.privacy.clipping import shortened
from fl_app.server.coded import Coded
from fl_app.wire.frame import unpack
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record, to_tree
from strategies import private_release
from strategies.private_release import MissingRepliesError, PrivateRelease
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback
from tests.messages import frame, framed

CLIP = 0.05
SERVER = (
    f"strategy=fedavg_dp_server clients_per_round=2 strategy.inner.clipping_norm={CLIP} "
    "strategy.inner.noise_multiplier=1.0 strategy.inner.seed=0"
)
CLIENT = SERVER.replace("dp_server", "dp_client")
FAINT = "strategy.inner.noise_multiplier=1e-9"


class Round:
    """One round of a federation in one process, with what went over the wire."""

    def __init__(self, folder: Path, overrides: str) -> None:
        folder.mkdir(exist_ok=True)
        overrides = f"{small.RUN} {overrides}"
        self.here = open_session(overrides)
        self.grid = Loopback(overrides, 3)
        coded = Coded(inner_strategy(self.here.cfg), self.here, Ledger(folder / "ledger.csv"))
        start = to_record(self.here.theta0)
        messages = list(coded.configure_train(1, start, ConfigRecord(), self.grid))
        sent = framed(messages[0], self.here)  # theta0, where the message brings none
        self.start = self.decoded(sent, self.here.down)
        replies = self.grid.send_and_receive(messages)
        assert not any(reply.has_error() for reply in replies), [r.error for r in replies]
        self.updates = [self.decoded(reply, self.here.up) for reply in replies]
        arrays, _ = coded.aggregate_train(1, replies)
        self.result = to_tree(arrays, like=self.here.theta0)

    def decoded(self, message: Message, codec):
        reference = self.here.theta0
        if codec is self.here.up:
            reference = self.here.reference(self.start)
        return codec.decode(unpack(frame(message), codec, self.here.manifest), reference)


def minus(a, b):
    return np.concatenate([(a[k].astype(np.float64) - b[k]).ravel() for k in a])


def clipped(update):
    return update * min(1.0, CLIP / np.linalg.norm(update))


BOTH = [f"{SERVER} codec=nf4", f"{CLIENT} codec.up={{id:fp32}}"]


@pytest.mark.parametrize("codec", combinations(["fp32", "nf4", "sign"], suite=["sign"]))
def test_the_server_clips_what_it_decoded(tmp_path: Path, codec: str) -> None:
    round_ = Round(tmp_path, f"{SERVER} codec={codec} {FAINT}")
    updates = [minus(update, round_.start) for update in round_.updates]
    assert max(map(np.linalg.norm, updates)) > 2 * CLIP
    mean = np.mean([clipped(update) for update in updates], axis=0)
    change = minus(round_.result, round_.start)
    np.testing.assert_allclose(change, mean, atol=1e-4 * CLIP)
    assert np.linalg.norm(change) <= CLIP * (1 + 1e-3)


@pytest.mark.parametrize("overrides", combinations(BOTH, suite=BOTH[:1]))
def test_the_mean_has_the_noise_before_it_is_encoded_and_repeats(
    tmp_path: Path, overrides: str
) -> None:
    faint = Round(tmp_path / "a", f"{overrides} {FAINT}")
    noised = Round(tmp_path / "b", overrides)
    noise = minus(noised.result, faint.result)
    std = CLIP / 2  # of two clients
    assert noise.std() == pytest.approx(std, rel=4 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 4 * std / np.sqrt(noise.size)
    again = Round(tmp_path / "c", overrides)
    assert not minus(again.result, noised.result).any()
    other = Round(tmp_path / "d", f"{overrides} strategy.inner.seed=7")
    assert minus(other.result, noised.result).any()
    state = np.random.get_state()[1].copy()
    secret = [Round(tmp_path / n, f"{overrides} strategy.inner.seed=null") for n in "ef"]
    assert minus(secret[0].result, secret[1].result).any()
    assert np.array_equal(np.random.get_state()[1], state)


def test_the_client_clips_within_its_codec(tmp_path: Path) -> None:
    """What it sends is the start and an update of at most the norm that the server has named."""
    free = Round(tmp_path / "a", "strategy=fedavg clients_per_round=2 codec.up={id:fp32}")
    bound = Round(tmp_path / "b", f"{CLIENT} codec.up={{id:fp32}} {FAINT}")
    for without, update in zip(free.updates, bound.updates, strict=True):
        wanted = clipped(minus(without, free.start))
        np.testing.assert_allclose(minus(update, bound.start), wanted, atol=1e-4 * CLIP)
        assert np.linalg.norm(minus(update, bound.start)) <= CLIP * (1 + 1e-3)


def released(updates: list[np.ndarray], more: str = "") -> np.ndarray:
    """What a round releases of clients' updates of a start of ones."""
    release = inner_strategy(compose(f"{small.RUN} {SERVER} {more}"))
    arrays = ArrayRecord({"w": Array(np.ones(len(updates[0]), np.float32))})
    everyone = type("Everyone", (), {"get_node_ids": lambda self: [1, 2]})()
    assert len(list(release.configure_train(1, arrays, ConfigRecord(), everyone))) == 2
    replies = [
        Message(RecordDict({
            "arrays": ArrayRecord({"w": Array((1 + update).astype(np.float32))}),
            "metrics": MetricRecord({"one": 1.0}),
        }), 1, "train")
        for update in updates
    ]  # fmt: skip
    noised, _ = release.aggregate_train(1, replies)
    assert noised is not None
    return noised["w"].numpy() - 1.0


def test_a_round_that_misses_a_reply_releases_nothing() -> None:
    with pytest.raises(MissingRepliesError, match="1 of 2"):
        released([np.ones(3)])


def test_an_update_of_zero_is_the_neighbour_that_epsilon_is_about() -> None:
    """Of a client that learnt nothing, or is not there: it divided by zero."""
    zero, long = np.zeros(3), np.array([3.0, 0.0, 4.0])
    np.testing.assert_allclose(released([zero, zero], FAINT), 0, atol=1e-6)
    np.testing.assert_allclose(
        released([zero, long], FAINT), long / 5 * CLIP / 2, rtol=1e-3, atol=1e-7
    )
    np.testing.assert_array_equal(shortened(*[{"w": np.ones(3, np.float32)}] * 2, CLIP)["w"], 1)


def record(values: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"w": Array(values.astype(np.float32))})


@given(
    arrays(np.float32, 4, elements=st.floats(-1e3, 1e3, width=32)),
    arrays(np.float32, 4, elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(1e-2, 1e4),
)
def test_what_is_clipped_is_never_longer_and_never_turned(start, end, length: float) -> None:
    ends = ({"w": values.astype(np.float32)} for values in (end, start))
    short = shortened(*ends, length)["w"].astype(float) - start
    change = end.astype(float) - start
    rounding = 1e-6 * (1e3 + np.abs(change).max())
    assert np.linalg.norm(short) <= length + rounding
    if (norm := np.linalg.norm(change)) > length:
        np.testing.assert_allclose(short, change * length / norm, atol=rounding)
    else:
        np.testing.assert_allclose(short, change, atol=rounding)


def test_secret_noise_is_not_drawn_from_numpys_generator(monkeypatch) -> None:
    zero = np.zeros(1000)
    np.random.seed(1)
    first = released([zero, zero], "strategy.inner.seed=null")
    np.random.seed(1)
    assert not np.array_equal(first, released([zero, zero], "strategy.inner.seed=null"))
    monkeypatch.setattr(private_release, "secret_key", lambda: bytes(32))
    same = [released([zero, zero], "strategy.inner.seed=null") for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert np.std(same[0]) == pytest.approx(CLIP / 2, rel=0.1)


def test_wrappers_are_built_around_a_strategy_that_takes_everyone_it_sees() -> None:
    release = inner_strategy(compose(f"{small.RUN} {SERVER}"))
    assert isinstance(release, PrivateRelease)
    averaging = release.strategy
    assert isinstance(averaging, FedAvg)
    assert averaging.fraction_train == 1.0
    assert averaging.weighted_by_key == "one"
    for wrong in ("noise_multiplier=inf", "strategy.weighted_by_key=wealth"):
        with pytest.raises(ValueError, match=r"should be|set it to one"):
            inner_strategy(compose(f"{small.RUN} {SERVER} strategy.inner.{wrong}"))


# ---- what would not be private is refused ---------------------------------------------------

DP = "privacy=dp_sgd"
INNER = "strategy.inner"
REFUSED = {
    f"{DP} adapter=lora_sb adapter.init=client_mean": "adapter.init=server_public",
    f"{DP} adapter=lora_sb adapter.init=first_client": "adapter.init=server_public",
    f"{SERVER} adapter=lora_sb adapter.init=first_client": "adapter.init=server_public",
    f"{DP} evaluate_clients_per_round=1": "set it to 0",
    f"{SERVER} evaluate_clients_per_round=1": "set it to 0",
    f"{DP} privacy.noise_multiplier=1.0": "set the other to null",
    f"{DP} privacy.epsilon=null": "set the other to null",
    f"{DP} privacy.epsilon=0": "greater than 0",
    f"{DP} privacy.delta=1.5": r"in \(0, 1\)",
    f"{DP} privacy.max_grad_norm=0": "greater than 0",
    f"{DP} privacy.noise=loud": "secret",
    f"{DP} privacy.id=magic": "dp_sgd",
    f"{DP} strategy=fedavg strategy.inner.weighted_by_key=loss": "should be one of",
    f"{SERVER} {DP}": "choose one",
    f"{SERVER} {INNER}.strategy.weighted_by_key=num-examples": "set it to one",
    f"{SERVER} {INNER}.noise_multiplier=0": "greater than 0",
    f"{SERVER} {INNER}.clipping_norm=0": "greater than 0",
    f"{SERVER} {INNER}.clipped_by=nobody": "server",
    f"{SERVER} {INNER}.strategy._target_=flwr.serverapp.strategy.FedAdam": "mean",
    "strategy=fedavg strategy.inner._target_=flwr.serverapp.strategy."
    "DifferentialPrivacyServerSideFixedClipping ~strategy.inner.weighted_by_key "
    "+strategy.inner.noise_multiplier=1.0 +strategy.inner.clipping_norm=0.1 "
    "+strategy.inner.num_sampled_clients=1 +strategy.inner.strategy._target_="
    "flwr.serverapp.strategy.FedAvg": "set strategy=fedavg_dp_server",
    f"{CLIENT} codec=nf4": r"codec\.up=\{id:fp32\}",
}  # fmt: skip


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_would_not_be_private_is_refused(overrides: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[overrides]):
        check(compose(f"{small.RUN} {overrides}"))


@pytest.mark.parametrize(
    "overrides",
    [
        f"{DP} adapter=lora_sb adapter.init=server_public",
        f"{DP} strategy=fedprox clients_per_round=2",
        f"{DP} privacy.epsilon=null privacy.noise_multiplier=0.7",
        f"{SERVER} codec=thin",
        f"{SERVER} {INNER}.strategy._target_=strategies.fed_sb.FedSB adapter=lora_sb",
    ],
)
def test_what_is_private_is_not_refused(overrides: str) -> None:
    check(compose(f"{small.RUN} {overrides}"))
