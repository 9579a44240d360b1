"""Secure aggregation through Coded, its mods and the real ClientApp, on messages in one process."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import forget_session, open_session
from fl_app.client import rows as node_data
from fl_app.codecs import Wire
from fl_app.codecs.modular import ring
from fl_app.codecs.streams import words
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.server.round import RoundFailedError
from fl_app.server.secure import SecureCoded
from fl_app.server.start import set_up
from fl_app.wire.frame import unpack
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import message_bytes, to_record, to_tree
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback, over_the_wire
from tests.messages import frame, said, who
from tests.rounding import assert_within, summed

BASE = f"{small.RUN} federation.clients=4 clients_per_round=4 codec=modular"
SECURE = f"{BASE} strategy=secure_fedavg"
MOST = 100  # more examples than any client has
WEIGHTED = f"codec.up.links.1.max_weight={MOST}"
TRAIN = "train"


class Deaf(Loopback):
    """``lost`` are the stages that a client does not answer: the question, or the answer, is lost.

    ``seen`` are all replies, as they arrive.
    """

    def __init__(self, overrides: str, lost: set[tuple[int, str]] | None = None) -> None:
        super().__init__(overrides, 4)
        self.lost = lost or set()
        self.asked: list[Message] = []
        self.seen: list[Message] = []

    def deliver(self, message: Message) -> Message | None:
        stage = message.metadata.message_type.removeprefix("query.")
        client = who(message)
        if (client, f"no {stage}") in self.lost:
            return None
        reply = super().deliver(message)
        self.asked.append(message)
        self.seen.append(over_the_wire(reply))  # the server puts other things into it
        return None if (client, stage) in self.lost else reply


class Federation:
    """Rounds of four clients."""

    def __init__(self, folder: Path, overrides: str, lost=None) -> None:
        folder.mkdir(exist_ok=True)
        self.here = open_session(overrides)
        self.grid = Deaf(overrides, lost)
        self.ledger = Ledger(folder / "ledger.csv")
        kind = SecureCoded if "secure_aggregation" in self.here.cfg.strategy else Coded
        self.coded = kind(inner_strategy(self.here.cfg), self.here, self.ledger)
        self.arrays = to_record(self.here.theta0)

    def train(self, number: int = 1) -> list[Message]:
        """Return the messages of a round, before they are sent."""
        return list(self.coded.configure_train(number, self.arrays, ConfigRecord(), self.grid))

    def round(self, number: int):
        messages = self.train(number)
        self.arrays, metrics = self.coded.aggregate_train(
            number, self.grid.send_and_receive(messages)
        )
        return self.tree, metrics

    @property
    def tree(self):
        return to_tree(self.arrays, like=self.here.theta0)

    def vectors(self) -> list[np.ndarray]:
        """Return the words of all updates that were sent, in the order of the clients."""
        added = ring(self.here.up.spec)
        count = added.count(self.here.theta0)
        updates = [
            (who(question), reply)
            for question, reply in zip(self.grid.asked, self.grid.seen, strict=True)
            if question.metadata.message_type == TRAIN
        ]
        return [
            words.unpack(self.section(reply), added.bits, count)
            for _, reply in sorted(updates, key=lambda pair: pair[0])
        ]

    def section(self, message: Message) -> bytes:
        (section,) = unpack(frame(message), self.here.up, self.here.manifest).sections
        return section


def same(a, b) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


def mean_of(plain: Federation, clients: list[int], weights: list[int]):
    """Return what the weighted sum of some plain clients' integers decodes to."""
    added = ring(plain.here.up.spec)
    messages = plain.vectors()
    total = np.zeros_like(messages[0])
    for client, weight in zip(clients, weights, strict=True):
        total += added.weighted(messages[client], weight)
    section = words.pack(total & added.mask, added.bits)
    return plain.here.up.decode(Wire((section,)), plain.here.theta0)


@pytest.fixture(autouse=True, scope="module")
def _clients_of_different_size():
    """Client k trains on its first k + 1 documents: 8 examples each."""
    rows = node_data.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            node_data, "rows", lambda here, context, k: rows(here, context, k).select(range(k + 1))
        )
        yield


@pytest.fixture(scope="module", name="plain")
def _plain(tmp_path_factory) -> Federation:
    """The same round without secure aggregation: what every client sends in the clear."""
    federation = Federation(tmp_path_factory.mktemp("plain"), f"{BASE} strategy=fedavg {WEIGHTED}")
    federation.round(1)
    return federation


def test_the_model_is_the_mean_of_the_same_integers(tmp_path: Path, plain: Federation) -> None:
    """Bit for bit, and FedAvg's to its rounding; over two rounds, with fresh secrets."""
    secure = Federation(tmp_path, f"{SECURE} {WEIGHTED}")
    tree, metrics = secure.round(1)
    weights = weights_of(plain)
    assert weights == [8, 16, 24, 32]
    assert same(tree, mean_of(plain, [0, 1, 2, 3], weights))
    assert metrics["num-examples"] == sum(weights)
    for name, values in plain.tree.items():
        assert_within(tree[name], values, summed(2, np.abs(values).max()))
    assert not same(tree, secure.here.theta0)
    before = {id(x) for x in secure.grid.seen}
    secure.round(2)
    assert not any(a.tobytes() == b.tobytes() for a in secure.vectors() for b in plain.vectors())
    assert before


def weights_of(plain: Federation) -> list[int]:
    examples = [said(reply)["num-examples"] for reply in replies_of(plain)]
    return [min(count, MOST) for count in examples]


def replies_of(federation: Federation) -> list[Message]:
    pairs = zip(federation.grid.asked, federation.grid.seen, strict=True)
    found = [(q, r) for q, r in pairs if q.metadata.message_type == TRAIN]
    return [r for _, r in sorted(found, key=lambda pair: who(pair[0]))]


def test_what_the_server_gets_of_one_client_is_noise(tmp_path: Path, plain: Federation) -> None:
    secure = Federation(tmp_path, f"{SECURE} {WEIGHTED}")
    secure.round(1)
    added = ring(secure.here.up.spec)
    for masked, clear in zip(secure.vectors(), plain.vectors(), strict=True):
        size = np.abs(added.levels(clear[:-1])).mean()
        noise = np.abs(added.levels(masked[:-1])).mean() / 2.0**added.bits
        assert size / 2.0**added.bits < 0.01
        assert noise == pytest.approx(0.25, rel=0.05)
        correlation = np.corrcoef(added.levels(masked[:-1]), added.levels(clear[:-1]))[0, 1]
        assert abs(correlation) < 6 / np.sqrt(masked.size)
    for reply in replies_of(secure):
        assert not reply.content.metric_records
        assert {*said(reply)} == {"decode", "work", "encode"}


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ({(2, "secure_keys")}, [0, 1, 3]),
        ({(2, "secure_shares")}, [0, 1, 3]),
        ({(2, f"no {TRAIN}")}, [0, 1, 3]),
        ({(2, TRAIN)}, [0, 1, 3]),
        ({(2, "secure_reveal")}, [0, 1, 2, 3]),
        ({(2, TRAIN), (2, "secure_reveal")}, [0, 1, 3]),
    ],
)
def test_a_client_may_drop_out_at_any_stage(tmp_path, plain, lost, left) -> None:
    secure = Federation(tmp_path, f"{SECURE} {WEIGHTED}", lost)
    tree, metrics = secure.round(1)
    weights = [weights_of(plain)[client] for client in left]
    assert metrics["num-examples"] == sum(weights)
    assert same(tree, mean_of(plain, left, weights))


@pytest.mark.parametrize(
    "stages", [("secure_keys",), ("secure_shares",), (TRAIN,), ("secure_reveal",),
               ("secure_keys", TRAIN)],
)  # fmt: skip
def test_too_many_drop_outs_are_one_error_and_no_model(tmp_path: Path, stages) -> None:
    lost = {(client, stages[i % len(stages)]) for i, client in enumerate((1, 2))}
    secure = Federation(tmp_path, SECURE, lost)
    with pytest.raises(RoundFailedError, match="secure aggregation needs 3: nothing is revealed"):
        secure.round(1)
    sent = sum(message_bytes(message) for message in secure.grid.asked)
    got = sum(message_bytes(reply) for reply in secure.grid.seen)
    heard = {(r.direction): 0 for r in secure.ledger.rows}
    for row in secure.ledger.rows:
        heard[row.direction] += row.message_bytes
    assert heard["down"] == sent
    assert 0 < heard["up"] <= got  # what was lost was not received


def test_every_message_of_every_stage_has_its_row(tmp_path: Path) -> None:
    secure = Federation(tmp_path, SECURE)
    secure.round(1)
    rows = [row for row in secure.ledger.rows if row.round == 1]
    assert sum(row.kind == "setup" for row in rows) == 3 * 2 * 4
    assert sum(row.kind == "train" for row in rows) == 2 * 4
    for direction, messages in (("down", secure.grid.asked), ("up", secure.grid.seen)):
        measured = sum(message_bytes(message) for message in messages)
        assert sum(r.message_bytes for r in secure.ledger.rows if r.direction == direction) == (
            measured
        )
    (payload,) = {row.payload_bytes for row in rows if (row.kind, row.direction) == ("train", "up")}
    added = ring(secure.here.up.spec)
    assert payload == words.nbytes(added.bits, added.count(secure.here.theta0))


def test_a_sparse_graph_gives_the_same_sum_for_fewer_bytes(tmp_path: Path) -> None:
    everyone = Federation(tmp_path / "a", SECURE)
    few = Federation(tmp_path / "b", f"{SECURE} strategy.secure_aggregation.neighbours=2")
    (tree, metrics), (other, _) = everyone.round(1), few.round(1)
    assert same(tree, other)
    assert metrics["num-examples"] == 4  # with max_weight=1 every client counts the same
    assert few.ledger.sent() < everyone.ledger.sent()
    assert {len(group) for group in few.coded.uplink.sum.groups.values()} == {3}


OTHERS = [
    "strategy.inner._target_=flwr.serverapp.strategy.FedAdam codec.up.links.1.bits=8",
    "strategy.inner._target_=strategies.fed_sb.FedSB adapter=lora_sb codec.down={id:nf4}",
    "privacy=dp_sgd privacy.noise=seeded codec.reference=theta0",
]


@pytest.mark.parametrize("overrides", combinations(OTHERS, suite=OTHERS[1:]))
def test_it_goes_with_other_means_adapters_and_private_training(tmp_path, overrides) -> None:
    """And repeats, though keys and masks do not."""
    results = []
    for name in "ab":
        forget_session()  # LoRA-SB's is patched
        secure = Federation(tmp_path / name, f"{SECURE} {overrides}")
        set_up(secure.coded, secure.grid)
        secure.arrays = to_record(secure.here.theta0)
        results.append(secure.round(1)[0])
        assert not same(results[-1], secure.here.theta0)
    assert same(*results)


# ---- a client and a server that asks too much ----------------------------------------------


@pytest.fixture(name="asking")
def _asking(tmp_path: Path):
    """A round up to the training, and a way to ask a client for more."""
    secure = Federation(tmp_path, SECURE)
    messages = secure.coded.configure_train(1, secure.arrays, ConfigRecord(), secure.grid)
    by_client = {who(m): m for m in messages}

    def ask(client: int, action: str, **config) -> str:
        record = ConfigRecord({"partition": client, "server-round": 1, **config})
        node = secure.coded.clients.nodes[client]
        (reply,) = secure.grid.send_and_receive(
            [Message(RecordDict({"config": record}), node, f"query.{action}")]
        )
        return reply.error.reason if reply.has_error() else "answered"

    return secure, by_client, ask


def test_a_client_never_reveals_both_secrets_nor_twice(asking) -> None:
    secure, messages, ask = asking
    reveal = {"survivors": [0, 1, 2], "dropped": [3]}
    assert "'shares', and this needs 'masked'" in ask(0, "secure_reveal", **reveal)
    secure.grid.send_and_receive(messages.values())
    both = {"survivors": [0, 1, 2], "dropped": [2, 3]}
    assert "both secrets of clients [2]" in ask(0, "secure_reveal", **both)
    few = {"survivors": [0, 1], "dropped": [2, 3]}
    assert "2 survivors, where 3" in ask(0, "secure_reveal", **few)
    assert ask(0, "secure_reveal", **reveal) == "answered"
    other = {"survivors": [0, 1, 3], "dropped": [2]}
    assert "no secrets of round 1" in ask(0, "secure_reveal", **other)


def test_messages_at_once_are_no_way_to_be_answered_twice(asking) -> None:
    """Each is worked on by a process of its own, with the node's state as it was before."""
    secure, messages, ask = asking
    node = secure.coded.clients.nodes[0]
    before = secure.grid.contexts[node]

    def stale(context: Context) -> None:
        secure.grid.contexts[node] = replace(context, state=copy.deepcopy(context.state))

    stale(before)
    (first,) = secure.grid.send_and_receive([messages[0]])
    assert not first.has_error()
    after = secure.grid.contexts[node]
    stale(before)
    (second,) = secure.grid.send_and_receive([messages[0]])
    assert "secure_update of client 0 in round 1 was already answered" in second.error.reason
    stale(after)
    assert ask(0, "secure_reveal", survivors=[0, 1, 2], dropped=[3]) == "answered"
    stale(after)
    again = ask(0, "secure_reveal", survivors=[0, 1, 3], dropped=[2])
    assert "secure_reveal of client 0 in round 1 was already answered" in again


def test_a_round_is_not_done_again_without_one_of_its_clients(asking) -> None:
    """The difference of the two sums would be that client's update."""
    secure, messages, ask = asking
    secure.grid.send_and_receive(messages.values())
    assert ask(0, "secure_reveal", survivors=[0, 1, 2, 3], dropped=[]) == "answered"
    assert "secure_keys of client 0 in round 1 was already answered" in ask(0, "secure_keys")
    for number in (0, 3, 2**62):
        said = ask(0, "secure_keys", **{"server-round": number})
        assert f"server-round={number} should be a whole number in 1..2" in said
    assert "should be a whole number" in ask(0, "secure_keys", **{"server-round": 1.0})


def test_a_server_that_hands_out_all_keys_gets_no_shares(tmp_path: Path) -> None:
    """Groups of three among four: with shares for four, it could ask for either secret."""
    few = f"{SECURE} strategy.secure_aggregation.neighbours=2"
    secure = Federation(tmp_path, few)
    secure.coded.clients.find(secure.grid)

    def ask(action: str, client: int, **config) -> Message:
        record = ConfigRecord({"partition": client, "server-round": 1, **config})
        (reply,) = secure.grid.send_and_receive(
            [
                Message(
                    RecordDict({"config": record}),
                    secure.coded.clients.nodes[client],
                    f"query.{action}",
                )
            ]
        )
        return reply

    publics = [ask("secure_keys", client).content["config"] for client in range(4)]
    everyone = {
        "members": [0, 1, 2, 3],
        "mask-publics": [one["mask-public"] for one in publics],
        "share-publics": [one["share-public"] for one in publics],
    }
    for client in range(4):
        reply = ask("secure_shares", client, **everyone)
        assert reply.has_error()
        assert "a group of 4, where the configuration has 3" in reply.error.reason


def test_a_sum_of_two_is_never_revealed(tmp_path: Path) -> None:
    """Three clients, one of which drops out after it has shared its secrets."""
    three = f"{SECURE} clients_per_round=3"
    cohort = [who(q) for q in Federation(tmp_path / "a", three).train()]
    secure = Federation(tmp_path / "b", three, {(cohort[0], TRAIN)})
    with pytest.raises(RoundFailedError, match="secure aggregation needs 3: nothing is revealed"):
        secure.round(1)
    assert all(m.metadata.message_type != "query.secure_reveal" for m in secure.grid.asked)


def test_a_client_masks_one_update_a_round(asking) -> None:
    secure, messages, _ = asking
    message = messages[0]
    (first,) = secure.grid.send_and_receive([message])
    assert not first.has_error()
    (second,) = secure.grid.send_and_receive([message])
    assert "'masked'" in second.error.reason


def test_secrets_of_another_round_are_of_no_use(asking) -> None:
    secure, messages, ask = asking
    secure.grid.send_and_receive(messages.values())
    reveal = {"survivors": [0, 1, 2], "dropped": [3]}
    assert "no secrets of round 2" in ask(0, "secure_reveal", **{"server-round": 2, **reveal})
    assert ask(0, "secure_keys", **{"server-round": 2}) == "answered"
    assert "no secrets of round 1" in ask(0, "secure_reveal", **reveal)


def test_a_finished_round_leaves_no_secret(tmp_path: Path) -> None:
    secure = Federation(tmp_path, SECURE)
    secure.round(1)
    for context in secure.grid.contexts.values():
        assert not [key for key in context.state if key.startswith("secure")]


def test_without_secure_aggregation_no_client_takes_part(tmp_path: Path) -> None:
    plain = Federation(tmp_path, f"{BASE} strategy=fedavg")
    plain.coded.configure_train(1, plain.arrays, ConfigRecord(), plain.grid)
    record = ConfigRecord({"partition": 0, "server-round": 1})
    node = plain.coded.clients.nodes[0]
    (reply,) = plain.grid.send_and_receive(
        [Message(RecordDict({"config": record}), node, "query.secure_keys")]
    )
    assert "asks for no secure aggregation" in reply.error.reason


# ---- what makes no sense is refused ---------------------------------------------------------

S = "strategy=secure_fedavg codec=modular clients_per_round=4"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("strategy=secure_fedavg codec=modular", "at least 3"),
        ("strategy=secure_fedavg codec=nf4 clients_per_round=4", "codec=modular"),
        (f"{S} codec.up.links.1.clients=3", "room for the sum of 3"),
        (f"{S} strategy.secure_aggregation.neighbours=3", "even"),
        (f"{S} strategy.secure_aggregation.neighbours=4", r"2\.\.3"),
        (f"{S} strategy.secure_aggregation.neighbours=2.0", "whole number"),
        (f"{S} strategy.secure_aggregation.threshold=0.5", r"\(0\.5, 1\]"),
        (f"{S} strategy.secure_aggregation.threshold=1.1", r"\(0\.5, 1\]"),
        (f"{S} strategy.inner.weighted_by_key=num-examples", "max_weight"),
        (f"{S} strategy.inner._target_=flwr.serverapp.strategy.FedMedian", "more of a round than"),
        (f"{S} strategy.inner._target_=strategies.flora.FLoRA", "more of a round than"),
        (f"{S} evaluate_clients_per_round=1", "in the clear"),
        (f"{S} adapter=lora_sb adapter.init=client_mean", "server_public"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        S,
        f"{S} strategy.inner._target_=flwr.serverapp.strategy.FedAdam",
        f"{S} strategy.inner._target_=strategies.fed_sb.FedSB adapter=lora_sb",
        f"{S} privacy=dp_sgd",
        f"{S} strategy.secure_aggregation.threshold=1 strategy.secure_aggregation.neighbours=2",
    ],
)
def test_what_makes_sense_is_not(overrides: str) -> None:
    check(compose(overrides))
