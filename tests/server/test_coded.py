"""Coded and its mod, both halves of the wire, on real messages in one process."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.codecs import from_spec
from fl_app.config import CONF_DIR, ConfigError, compose
from fl_app.seeds import turn_seed
from fl_app.server.coded import Coded
from fl_app.server.round import RoundFailedError
from fl_app.training.loop import train
from fl_app.wire.frame import pack, unpack
from fl_app.wire.ledger import Ledger
from fl_app.wire.messages import BARE
from fl_app.wire.records import pack_record, to_record, to_tree
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback, RealNodes
from tests.messages import frame, least, put, silent, who
from tests.rounding import assert_within, summed


class Rounds:
    """A federation in one process, round by round."""

    def __init__(self, tmp_path: Path, overrides: str, tamper=None, nodes: int = 3) -> None:
        self.overrides = f"{small.RUN} rounds=9 {overrides}"  # more than any test does
        self.here = open_session(self.overrides)
        self.grid = Loopback(self.overrides, nodes, tamper)
        self.ledger = Ledger(tmp_path / "ledger.csv")
        self.coded = Coded(inner_strategy(self.here.cfg), self.here, self.ledger)
        self.arrays = to_record(self.here.theta0)

    def round(self, number: int):
        messages = self.coded.configure_train(number, self.arrays, ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages)
        self.arrays, metrics = self.coded.aggregate_train(number, replies)
        return self.tree, metrics

    @property
    def tree(self):
        return to_tree(self.arrays, like=self.here.theta0)

    def client(self, partition: int, number: int, start):
        """Train one client by hand, outside of Flower."""
        here = self.here
        here.adapter.set(here.model, start)
        train(
            here.model, here.documents(partition).to_list(), here.task, here.cfg.optimizer,
            epochs=here.cfg.local_epochs, batch_size=here.cfg.batch_size,
            seed=turn_seed(here.cfg.seed, number, partition),
        )  # fmt: skip
        return here.adapter.get(here.model)


def same(a, b) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


def cohort(rows) -> list[int]:
    return [r.partition for r in rows if r.direction == "down" and r.kind == "train"]


def test_fp32_single_client_is_sequential_training(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=fp32")
    tree = rounds.here.theta0
    for number in (1, 2, 3):
        rounds.round(number)
    turns = cohort(rounds.ledger.rows)
    assert sorted(turns) == [0, 1, 2]
    for number, partition in enumerate(turns, start=1):
        tree = rounds.client(partition, number, tree)
    assert same(rounds.tree, tree)


def test_fp32_fedavg_is_the_weighted_mean(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=fp32 clients_per_round=2")
    tree, _ = rounds.round(1)
    clients = cohort(rounds.ledger.rows)
    trained = [rounds.client(p, 1, rounds.here.theta0) for p in clients]
    weights = [sum(map(len, rounds.here.documents(p)["questions"])) for p in clients]
    for name, values in tree.items():
        parts = np.array([t[name] for t in trained], np.float64)
        mean = np.average(parts, axis=0, weights=weights)
        assert_within(values, mean, summed(2, np.abs(parts).max()))


def test_unweighted_fedavg_ignores_sizes(tmp_path: Path) -> None:
    rounds = Rounds(
        tmp_path,
        "strategy=fedavg codec=fp32 clients_per_round=2 strategy.inner.weighted_by_key=one",
    )
    tree, _ = rounds.round(1)
    trained = [rounds.client(p, 1, rounds.here.theta0) for p in cohort(rounds.ledger.rows)]
    for name, values in tree.items():
        parts = np.array([t[name] for t in trained], np.float64)
        assert_within(values, parts.mean(axis=0), summed(2, np.abs(parts).max()))


def test_nf4_is_relayed_byte_for_byte(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=nf4")
    rounds.round(1)
    kept = rounds.tree
    messages = list(rounds.coded.configure_train(2, rounds.arrays, ConfigRecord(), rounds.grid))
    wire = unpack(frame(messages[0]), rounds.here.down, rounds.here.manifest)
    assert same(rounds.here.down.decode(wire, rounds.here.theta0), kept)
    (up_row,) = [r for r in rounds.ledger.rows if r.direction == "up" and r.kind == "train"]
    assert wire.nbytes == up_row.payload_bytes


def test_the_update_is_what_the_codec_makes_of_the_training(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=nf4")
    tree, _ = rounds.round(1)
    here = rounds.here
    trained = rounds.client(cohort(rounds.ledger.rows)[0], 1, here.theta0)
    wire, _ = here.up.encode(trained, here.up.init(here.theta0), here.theta0)
    assert same(tree, here.up.decode(wire, here.theta0))
    assert not same(tree, trained)


@pytest.mark.parametrize(
    ("strategy", "codec"),
    combinations(
        itertools.product(["fedadam", "fedyogi", "fedprox", "single_client"], ["fp32", "nf4"]),
        suite=[("fedadam", "nf4"), ("fedprox", "fp32"), ("single_client", "fp32")],
    ),
)
def test_every_strategy_runs_with_and_without_loss_and_repeats(
    tmp_path: Path, strategy: str, codec: str
) -> None:
    count = 1 if strategy == "single_client" else 2
    check_repeats(tmp_path, f"strategy={strategy} codec={codec} clients_per_round={count}")


@pytest.mark.parametrize(
    "codec",
    combinations(
        sorted(path.stem for path in (CONF_DIR / "codec").glob("*.yaml")),
        suite=["nf4", "thin", "sign", "ternary", "low_rank", "modular"],
    ),
)
def test_every_codec_of_conf_trains_and_repeats(tmp_path: Path, codec: str) -> None:
    check_repeats(tmp_path, f"strategy=fedavg codec={codec} clients_per_round=2")


def check_repeats(tmp_path: Path, overrides: str) -> None:
    """Train two rounds, twice, to the same model that is not theta0, at the same bytes."""

    def run(folder: Path):
        folder.mkdir()
        rounds = Rounds(folder, overrides)
        for number in (1, 2):
            rounds.round(number)
        return rounds

    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert same(first.tree, second.tree)
    assert not same(first.tree, first.here.theta0)
    untimed = [
        [(r.round, r.partition, r.direction, r.kind, r.codec, r.scalars,
          r.payload_bytes, r.frame_bytes, r.message_bytes) for r in run_.ledger.rows]
        for run_ in (first, second)
    ]  # fmt: skip
    assert untimed[0] == untimed[1]


def test_fedprox_pulls(tmp_path: Path) -> None:
    def moved(mu: float) -> float:
        folder = tmp_path / str(mu)
        folder.mkdir()
        rounds = Rounds(
            folder, f"strategy=fedprox codec=fp32 batch_size=1 strategy.inner.proximal_mu={mu}"
        )
        tree, _ = rounds.round(1)
        return sum(float(((tree[k] - rounds.here.theta0[k]) ** 2).sum()) for k in tree)

    assert moved(1000.0) < moved(0.001)


def test_the_ledger_is_measured_and_the_overhead_small(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 clients_per_round=2")
    rounds.round(1)
    rounds.grid.sent.clear()
    rounds.round(2)
    scalars = sum(v.size for v in rounds.here.theta0.values())
    train_rows = [r for r in rounds.ledger.rows if r.kind == "train"]
    assert [(r.direction) for r in train_rows] == ["down", "up"] * 4
    sent = {who(m): m for m in rounds.grid.sent}
    first = [r for r in train_rows if (r.round, r.direction) == (1, "down")]
    for row in train_rows:
        assert row.encode_s > 0
        assert row.decode_s > 0
        if row in first:
            continue
        assert row.scalars == scalars
        assert row.payload_bytes + 22 < row.frame_bytes <= row.payload_bytes + 55
        is_reply = row.direction == "up"
        assert row.message_bytes == least(row.frame_bytes, is_reply)
        id_of_question = 68 if is_reply else 0
        assert row.message_bytes - id_of_question <= 1.01 * row.payload_bytes + 400
        if row.direction == "down":
            assert row.frame_bytes == len(sent[row.partition].content[BARE][BARE])
            assert {*sent[row.partition].content} == {BARE}
    # The change since theta0 is zero, and so each client takes its own.
    assert all(0 < r.message_bytes <= 170 and r.payload_bytes == 0 for r in first)
    assert rounds.coded.seed_only_saving == 0
    setup = [r for r in rounds.ledger.rows if r.kind == "setup"]
    assert [(r.partition, r.direction) for r in setup] == [
        (p, d) for p in range(3) for d in ("down", "up")
    ]
    assert all(r.payload_bytes == 0 for r in setup)
    for down, up in zip(setup[::2], setup[1::2], strict=True):
        assert 0 < down.message_bytes + up.message_bytes <= 490


def test_a_client_that_rebuilds_theta0_sends_what_it_would_have_sent(tmp_path: Path) -> None:
    found = []
    for sends in (False, True):
        folder = tmp_path / str(sends)
        folder.mkdir()
        rounds = Rounds(folder, "strategy=single_client codec=nf4")
        rounds.coded.sends_theta0 = sends
        found.append(rounds.round(1)[0])
        down, up = (row for row in rounds.ledger.rows if row.kind == "train")
        assert (down.payload_bytes > 0, up.payload_bytes > 0) == (sends, True)
        saving = rounds.coded.seed_only_saving
        assert down.message_bytes - saving <= 170
        assert (saving > 0) == sends
    assert same(*found)


def test_what_a_codec_makes_of_theta0_is_sent_where_it_is_another_start(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=single_client codec=fp32 codec.down={id:nf4}")
    (message,) = rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid)
    wire = unpack(frame(message), rounds.here.down, rounds.here.manifest)
    assert not same(rounds.here.down.decode(wire, rounds.here.theta0), rounds.here.theta0)
    assert 0 < rounds.coded.seed_only_saving < len(frame(message)) + 400


def test_two_nodes_can_hold_three_clients(tmp_path: Path) -> None:
    results = []
    for nodes in (2, 3, 5):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        words = "strategy=fedavg codec=fp32 clients_per_round=3 federation.clients_per_node=2"
        rounds = Rounds(folder, words, nodes=nodes)
        results.append(rounds.round(1)[0])
    assert same(results[0], results[1])
    assert same(results[0], results[2])


# ---- what goes wrong ------------------------------------------------------------------------


def drop(reply: Message) -> None:
    return None


def garbage(reply: Message) -> Message:
    return put(reply, b"garbage" * 99)


def flipped(reply: Message) -> Message:
    changed = bytearray(frame(reply))
    changed[len(changed) // 2] ^= 4
    return put(reply, bytes(changed))


def unpacked(reply: Message) -> Message:
    silent(reply).content["arrays"] = ArrayRecord([np.zeros(3, np.float32)])
    return reply


def two_frames(reply: Message) -> Message:
    reply.content["arrays"] = pack_record(frame(reply))
    return reply


def no_bytes(reply: Message) -> Message:
    reply.content[BARE] = ConfigRecord({BARE: "text"})
    return reply


def more_keys(reply: Message) -> Message:
    reply.content[BARE]["more"] = b"x"
    return reply


def no_metrics(reply: Message) -> Message:
    return put(reply, drop=("num-examples", "loss"))


def no_timing(reply: Message) -> Message:
    return put(reply, drop=("work",))


def cut_head(reply: Message) -> Message:
    reply.content[BARE] = ConfigRecord({BARE: reply.content[BARE][BARE][:9]})
    return reply


def shorter_head(reply: Message) -> Message:
    """Without the bytes of its last time, so that the frame's first are taken for them."""
    data = reply.content[BARE][BARE]
    size = len(data) - len(frame(reply))
    reply.content[BARE] = ConfigRecord({BARE: data[: size - 4] + data[size:]})
    return reply


def unasked_field(reply: Message) -> Message:
    data = reply.content[BARE][BARE]
    reply.content[BARE] = ConfigRecord({BARE: data[:1] + bytes([data[1] | 128]) + data[2:]})
    return reply


def other_version(reply: Message) -> Message:
    reply.content[BARE] = ConfigRecord({BARE: b"\x09" + reply.content[BARE][BARE][1:]})
    return reply


def endless_count(reply: Message) -> Message:
    reply.content[BARE] = ConfigRecord({BARE: b"\3\x1f" + b"\xff" * 99})
    return reply


def as_before(reply: Message) -> Message:
    """As version 2 had it."""
    reply.content = RecordDict({"arrays": pack_record(frame(reply))})
    return reply


def other_codec(reply: Message) -> Message:
    here = open_session(SPOIL)
    wrong = from_spec({"id": "fp32"})
    wire, _ = wrong.encode(here.theta0, wrong.init(here.theta0), here.theta0)
    return put(reply, pack(wire, wrong, here.manifest))


def other_theta0(reply: Message) -> Message:
    here = open_session(SPOIL)
    wire, _ = here.up.encode(here.theta0, here.up.init(here.theta0), here.theta0)
    return put(reply, pack(wire, here.up, b"another!"))


def other_metrics(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({"surprise": 1.0})
    return reply


def metrics_twice(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({"loss": 0.5})
    return reply


def nan_loss(reply: Message) -> Message:
    return put(reply, loss=float("nan"))


def absurd_weight(reply: Message) -> Message:
    return put(reply, **{"num-examples": 10**15})


def no_weight(reply: Message) -> Message:
    return put(reply, **{"num-examples": 0})


def nothing(reply: Message) -> Message:
    reply.content = RecordDict()
    return reply


SPOIL = f"{small.RUN} strategy=fedavg codec=nf4 clients_per_round=3"
TAMPERS = {
    drop: "did not reply",
    garbage: "not a Thinwire frame",
    flipped: "CRC",
    unpacked: "no 'arrays' record",
    silent: "the reply brings no frame",
    two_frames: "a frame in '' and another one in 'arrays'",
    no_bytes: "the record '' does not hold bytes",
    more_keys: "the record '' does not hold bytes",
    cut_head: "the head ends before loss",
    shorter_head: "not a Thinwire frame",
    unasked_field: "not a Thinwire frame",
    other_version: "a message of version 9, this side reads 3: install",
    endless_count: "num-examples: no count",
    as_before: "no record '' with its head: is the same Thinwire version installed",
    no_metrics: "the reply has metrics [], expected ['loss', 'num-examples']",
    no_timing: "work=None",
    other_metrics: "surprise",
    metrics_twice: "the reply has metrics ['loss', 'loss', 'num-examples']",
    nothing: "no record '' with its head",
    nan_loss: "loss=nan",
    absurd_weight: "num-examples=1000000000000000 should be a whole number in 1..",
    no_weight: "num-examples=0 should be",
    other_codec: "another codec",
    other_theta0: "theta0",
}


@pytest.fixture(scope="module")
def said() -> dict[int, Message]:
    """What the three clients of SPOIL reply in its first round."""
    return {}


@pytest.fixture(scope="module")
def good_trees(tmp_path_factory):
    """What the server decodes of two of them, trained by hand."""
    good = Rounds(tmp_path_factory.mktemp("good"), SPOIL.removeprefix(small.RUN))
    up, theta0 = good.here.up, good.here.theta0
    return [
        up.decode(up.encode(good.client(p, 1, theta0), up.init(theta0), theta0)[0], theta0)
        for p in (0, 2)
    ]


@pytest.mark.parametrize(
    ("tamper", "says"), TAMPERS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_one_bad_reply_is_named_and_left_out(
    tmp_path: Path, caplog, said, good_trees, tamper, says: str
) -> None:
    rounds = Rounds(tmp_path, SPOIL.removeprefix(small.RUN), {1: tamper})
    rounds.grid.said = said
    tree, _ = rounds.round(1)
    assert says in caplog.text
    assert "client 1" in caplog.text
    for name, values in tree.items():
        parts = np.array([t[name] for t in good_trees], np.float64)
        assert_within(values, parts.mean(axis=0), summed(2, np.abs(parts).max()))


@pytest.mark.parametrize("tamper", [drop, garbage])
def test_a_round_in_which_all_fail_fails_with_every_reason(tmp_path: Path, tamper) -> None:
    rounds = Rounds(tmp_path, SPOIL.removeprefix(small.RUN), dict.fromkeys(range(3), tamper))
    with pytest.raises(RoundFailedError) as caught:
        rounds.round(1)
    assert all(f"client {p}" in str(caught.value) for p in range(3))
    assert len([r for r in rounds.ledger.rows if r.direction == "down"]) == 6  # kept: set-up, train


@pytest.mark.parametrize(("differs", "says"), [("seed=99", "theta0"), ("codec=fp32", "codec=")])
def test_a_client_that_starts_elsewhere_is_refused_with_the_reason(
    tmp_path: Path, caplog, differs: str, says: str
) -> None:
    """Two sides that disagree get an error, not a wrong average."""
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 clients_per_round=3")
    stranger = list(rounds.grid.contexts)[1]
    rounds.grid.contexts[stranger].run_config = {"overrides": f"{rounds.overrides} {differs}"}
    rounds.round(1)
    assert says in caplog.text
    up = [r for r in rounds.ledger.rows if r.direction == "up" and r.kind == "train"]
    assert sorted(r.payload_bytes > 0 for r in up) == [False, True, True]


def test_a_diverging_client_does_not_send(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 clients_per_round=3")
    stranger = list(rounds.grid.contexts)[1]
    rounds.grid.contexts[stranger].run_config = {
        "overrides": f"{rounds.overrides} optimizer.lr=1e30 optimizer.max_grad_norm=1e30 "
        "local_epochs=20"
    }
    tree, _ = rounds.round(1)
    assert "DivergedError" in caplog.text or "NaN" in caplog.text
    assert all(np.isfinite(v).all() for v in tree.values())


def test_nan_in_an_update_is_refused_by_the_sender(tmp_path: Path, caplog, monkeypatch) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 clients_per_round=3")
    real = rounds.here.adapter.get
    turns = itertools.count()

    def poisoned(model):
        tree = real(model)
        if next(turns) == 1:
            next(iter(tree.values())).flat[0] = np.nan
        return tree

    monkeypatch.setattr(rounds.here.adapter, "get", poisoned)
    tree, _ = rounds.round(1)
    assert "NaN" in caplog.text
    assert all(np.isfinite(v).all() for v in tree.values())


def test_a_node_without_partition_says_how_to_start_it(tmp_path: Path, caplog) -> None:
    rounds = Rounds(tmp_path, "codec=fp32 federation.node_timeout=1", nodes=3)
    next(iter(rounds.grid.contexts.values())).node_config = {}
    messages = list(rounds.coded.configure_train(1, rounds.arrays, ConfigRecord(), rounds.grid))
    assert len(messages) == 1
    assert "--node-config" in caplog.text


def test_one_node_cannot_take_every_client(tmp_path: Path, caplog) -> None:
    words = "strategy=fedavg codec=fp32 clients_per_round=2 federation.node_timeout=1"
    rounds = Rounds(tmp_path, words)
    rounds.grid = RealNodes(rounds.overrides, 3)
    greedy, deliver = [*rounds.grid.contexts][2], rounds.grid.deliver

    def claiming(message: Message) -> Message | None:
        reply = deliver(message)
        if (message.metadata.message_type, message.metadata.dst_node_id) == ("query", greedy):
            reply.metadata.group_id = "0/1"
        return reply

    rounds.grid.deliver = claiming
    rounds.round(1)
    assert f"node {greedy} is left out" in caplog.text
    assert "partition-id=0 of 1 is a claim to 3 clients, it may have 1" in caplog.text
    assert "clients without a node: [2]" in caplog.text
    assert cohort(rounds.ledger.rows) == [0, 1]


def test_single_client_refuses_more_replies(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=fp32 clients_per_round=2")
    rounds.coded.inner = inner_strategy(compose("strategy=single_client"))
    with pytest.raises(ValueError, match="clients_per_round=1"):
        rounds.round(1)


def test_evaluation_by_clients_is_counted_apart(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4 evaluate_clients_per_round=2")
    rounds.round(1)
    before = rounds.ledger.sent()
    messages = rounds.coded.configure_evaluate(1, rounds.arrays, ConfigRecord(), rounds.grid)
    metrics = rounds.coded.aggregate_evaluate(1, rounds.grid.send_and_receive(messages))
    assert {"anls", "accuracy"} <= set(metrics)
    scored = rounds.coded.client_scores
    assert len(scored) == 2
    weights = [one["num-examples"] for one in scored.values()]
    mean = np.average([one["anls"] for one in scored.values()], weights=weights)
    assert metrics["anls"] == pytest.approx(mean)
    rows = [r for r in rounds.ledger.rows if r.kind == "evaluate"]
    assert [r.direction for r in rows] == ["down", "up"] * 2
    assert [r.payload_bytes > 0 for r in rows] == [True, False] * 2
    assert rounds.ledger.sent() == before


def test_evaluation_asks_others_than_those_who_train(tmp_path: Path) -> None:
    rounds = Rounds(
        tmp_path, "strategy=fedavg codec=nf4 clients_per_round=1 evaluate_clients_per_round=1"
    )
    seen = []
    for number in range(1, 6):
        seen.append([])
        for configure in (rounds.coded.configure_train, rounds.coded.configure_evaluate):
            (message,) = configure(number, rounds.arrays, ConfigRecord(), rounds.grid)
            seen[-1].append(who(message))
    assert any(trained != scored for trained, scored in seen)


def test_a_codec_whose_receiver_remembers_is_for_the_way_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clients miss rounds"):
        Rounds(tmp_path, "codec=fp32 '++codec.down={id: shift, inner: {id: nf4}}'")


def test_no_evaluation_by_default(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=nf4")
    assert rounds.coded.configure_evaluate(1, rounds.arrays, ConfigRecord(), rounds.grid) == []
    assert rounds.coded.aggregate_evaluate(1, []) is None


def test_the_inner_strategy_is_flowers_own() -> None:
    inner = inner_strategy(compose("strategy=fedadam strategy.inner.eta=0.5"))
    assert type(inner).__module__.startswith("flwr.")
    assert inner.eta == 0.5


def test_an_empty_message_has_no_frame() -> None:
    from fl_app.codecs import WireError
    from fl_app.wire.records import unpack_record

    with pytest.raises(WireError):
        unpack_record(RecordDict())
