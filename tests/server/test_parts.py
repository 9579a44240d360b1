"""Messages with several parts, of different forms, or with none: both halves, in one process."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_app.aggregation.inner import EVERYONE, inner_strategy
from fl_app.client.memory import Memory
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.server.round import RoundFailedError
from fl_app.server.uplink import MESSAGE_BYTES
from fl_app.training.local import Answer, LocalMethod
from fl_app.training.loop import NO_HOOKS
from fl_app.tree import rms, scalars, zeros
from fl_app.wire.forms import DEFAULT, forms, plain_form
from fl_app.wire.frame import pack, unpack
from fl_app.wire.messages import FORM
from fl_app.wire.records import to_record, to_tree
from strategies.scaffold import Scaffold
from tests.combinations import combinations
from tests.messages import frame, framed, put, round_of, silent
from tests.server.test_coded import Rounds, drop, same

SCAFFOLD = "strategy=scaffold clients_per_round=2 optimizer.lr=3e-3"
SIGN = "{id:sign,scope:tensor}"
COARSE = f"{{model:{SIGN},control:{SIGN}}}"
TIERS = f"strategy=scaffold +strategy.forms.coarse={{down:{COARSE},up:{COARSE}}} codec=fp32"


def remembered(rounds: Rounds, client: int, number: int) -> dict[str, np.ndarray]:
    """Return c_i of a client after the reply of a round, out of its node's records."""
    here = rounds.here
    context = next(
        c for c in rounds.grid.contexts.values() if c.node_config["partition-id"] == client
    )
    form = here.forms[DEFAULT].up
    reference = here.references(form, here.theta0)
    fresh = (
        form.whole.init(reference, 0),
        here.method.start(here.theta0),
        form.whole.init_receiver(reference),
    )
    (_, c_i, _), since = Memory(context.state, client).recall(number, fresh)
    assert since == number
    return c_i


@pytest.mark.parametrize(
    "codec", combinations(["nf4", "uniform_entropy"], suite=["uniform_entropy"])
)
def test_two_parts_travel_in_one_frame_and_one_row(tmp_path: Path, codec: str) -> None:
    rounds = Rounds(tmp_path, f"{SCAFFOLD} codec={codec}", tamper={1: drop})
    here, form = rounds.here, rounds.here.forms[DEFAULT]
    accepted: dict[int, int] = {}
    for number in range(1, 5):
        before = len(rounds.ledger.rows)
        rounds.round(number)
        for row in rounds.ledger.rows[before:]:
            if not row.payload_bytes:
                continue  # a reply that was lost
            assert row.scalars == 2 * scalars(here.theta0)
            assert row.codec.startswith("model:")
            assert " control:" in row.codec
            if row.direction == "up":
                accepted[row.partition] = number
    for message in rounds.grid.sent:
        if message.metadata.message_type != "train" or round_of(message) == 1:
            continue  # theta0 and a control of 0 are not sent
        wire = unpack(frame(message), form.down.whole, here.manifest)
        parts = form.down.separate(form.down.whole.decode(wire, here.references(form.down)))
        assert [*parts] == ["model", "control"]
    assert 1 not in accepted
    c = rounds.coded.inner.c
    mean = {n: np.zeros(x.shape) for n, x in c.items()}
    for client, number in accepted.items():
        for name, values in remembered(rounds, client, number).items():
            mean[name] += values.astype(np.float64) / 3
    for name, values in c.items():
        bound = 16 * np.finfo(np.float32).eps * np.abs(values).max(initial=0)
        np.testing.assert_allclose(values, mean[name], rtol=0, atol=bound)
    assert any(values.any() for values in c.values())


def test_a_method_with_memory_goes_on_bit_for_bit(tmp_path: Path) -> None:
    check_goes_on(tmp_path, f"{SCAFFOLD} codec=nf4")


def check_goes_on(tmp_path: Path, words: str) -> Rounds:
    """Check that a run resumed after round 2 has the third round of one that was not stopped."""
    whole = Rounds(tmp_path, words)
    for number in (1, 2):
        whole.round(number)
    state, arrays = deepcopy(whole.coded.state(whole.arrays)), whole.arrays  # as in a checkpoint
    cut = Coded(inner_strategy(whole.here.cfg), whole.here, whole.ledger)
    cut.restore(state, arrays)
    # Both go on from what the nodes remember after round 2, so each gets its own copy of it.
    kept = {node: dict(c.state.items()) for node, c in whole.grid.contexts.items()}
    expected = whole.round(3)[0]
    for node, context in whole.grid.contexts.items():
        context.state.clear()
        context.state.update(kept[node])
    messages = cut.configure_train(3, arrays, ConfigRecord(), whole.grid)
    after, _ = cut.aggregate_train(3, whole.grid.send_and_receive(messages))
    assert same(to_tree(after, like=whole.here.theta0), expected)
    return whole


def whole_and_resumed(tmp_path: Path, words: str) -> tuple[Rounds, Rounds]:
    """Return two runs after four rounds: one in a go, and one that another process went on with."""
    for name in ("whole", "first", "second"):
        (tmp_path / name).mkdir()
    whole, first = Rounds(tmp_path / "whole", words), Rounds(tmp_path / "first", words)
    for number in (1, 2, 3, 4):
        whole.round(number)
    for number in (1, 2):
        first.round(number)
    second = Rounds(tmp_path / "second", words)
    second.coded.restore(first.coded.state(first.arrays), first.arrays)
    second.arrays = first.arrays
    for number in (3, 4):
        second.round(number)
    return whole, second


class Tiers(Scaffold):
    """Sends odd clients the coarse form."""

    form = "coarse"

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            if message.metadata.dst_node_id % 2:
                said = ConfigRecord({**message.content["config"], FORM: self.form})
                # Flower gives all messages of a round the same content.
                message.content = RecordDict({**message.content, "config": said})
            yield message


def test_messages_of_a_round_differ_by_client(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, f"{TIERS} clients_per_round=3")
    rounds.coded.inner = Tiers(clients=3, **EVERYONE)
    tree, _ = rounds.round(1)
    coarse, fine = "model:sign control:sign", "model:fp32 control:fp32"
    names = [(row.partition, row.codec) for row in rounds.ledger.rows if row.payload_bytes]
    # What comes of the fine form is theta0 and a control of 0, which need not be sent.
    assert names == [(0, fine), (1, coarse), (1, coarse), (2, fine)]
    sign, theta0 = from_spec({"id": "sign", "scope": "tensor"}), rounds.here.theta0

    def rounded(tree):
        return sign.decode(sign.encode(tree, sign.init(theta0), theta0)[0], theta0)

    models = [rounds.client(k, 1, rounded(theta0) if k == 1 else theta0) for k in range(3)]
    models[1] = rounded(models[1])
    for name, values in tree.items():  # the first round's control is 0
        mean = np.mean([m[name] for m in models], axis=0, dtype=np.float64)
        np.testing.assert_allclose(values, mean, rtol=1e-6, atol=1e-7)


def test_a_server_cannot_name_a_form_that_the_run_does_not_have(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, TIERS)
    rounds.coded.inner = Tiers(clients=3, **EVERYONE)
    rounds.coded.inner.form = "finest"
    with pytest.raises(ValueError, match="'finest' is none of this run: \\['coarse', 'default'\\]"):
        [rounds.round(number) for number in range(1, 9)]
    honest = Rounds(tmp_path, "strategy=fedavg codec=fp32")
    (message,) = honest.coded.configure_train(1, honest.arrays, ConfigRecord(), honest.grid)
    for said in (1, 2**62):
        (reply,) = honest.grid.send_and_receive([framed(message, honest.here, form=said)])
        assert reply.has_error()
        assert f"form={said} should be a whole number in 0..0" in reply.error.reason
    (reply,) = honest.grid.send_and_receive([framed(message, honest.here, form=0)])
    assert not reply.has_error()


def test_a_strategy_that_sends_other_parts_than_its_form_is_told(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "strategy=fedavg codec=fp32")
    tree = rounds.here.theta0

    class Stray(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            for message in super().configure_train(server_round, arrays, config, grid):
                message.content["control"] = to_record(tree)
                yield message

    rounds.coded.inner = Stray(**EVERYONE)
    with pytest.raises(ValueError, match="sends \\['arrays', 'control'\\]"):
        rounds.round(1)


class Quiet(LocalMethod):
    """Client 0 trains, and says nothing."""

    may_be_silent = True
    speakers = frozenset({1, 2})

    def start(self, theta0):
        return zeros(theta0)

    def run(self, given):
        trained = given.train(NO_HOOKS)
        parts = {"model": trained.model} if given.client in self.speakers else {}
        turns = {name: x + 1 for name, x in given.memory.items()}
        return Answer(parts, trained.metrics, lambda sent: turns)


def quiet(tmp_path: Path, monkeypatch, words: str) -> Rounds:
    rounds = Rounds(tmp_path, words)
    monkeypatch.setattr(rounds.here, "method", Quiet())
    rounds.here.__dict__.pop("method_remembers", None)
    monkeypatch.setitem(rounds.here.__dict__, "method_remembers", True)
    return rounds


@pytest.mark.parametrize("strategy", ["fedavg", "fedex_lora"])
def test_a_silent_reply_is_a_reply(tmp_path: Path, monkeypatch, strategy: str) -> None:
    words = f"strategy={strategy} clients_per_round=3 codec=nf4 federation.min_replies=3"
    rounds = quiet(tmp_path, monkeypatch, words)
    if "fedex" in strategy:  # which is shown replies, and none that is silent
        seen = []
        aggregate = rounds.coded.inner.aggregate_train

        def look(number, replies):
            replies = list(replies)
            seen.extend(len(reply.content.array_records) for reply in replies)
            return aggregate(number, replies)

        monkeypatch.setattr(rounds.coded.inner, "aggregate_train", look)
    rounds.round(1)
    rounds.round(2)
    ups = {(r.round, r.partition): r for r in rounds.ledger.rows if r.direction == "up"}
    assert (ups[1, 0].payload_bytes, ups[1, 0].codec, ups[1, 0].scalars) == (0, "none", 0)
    assert 0 < ups[1, 0].message_bytes < ups[1, 1].message_bytes
    assert ups[1, 1].payload_bytes > 0
    assert rounds.coded.uplink.accepted(0) == 2  # what it remembers goes on from there
    if "fedex" in strategy:
        assert seen == [1, 1] * 2


@pytest.mark.parametrize("strategy", combinations(["fedavg", "fedyogi"], suite=["fedyogi"]))
def test_a_round_in_which_all_are_silent_leaves_the_model(
    tmp_path: Path, monkeypatch, strategy: str
) -> None:
    class Every2nd(LocalMethod):
        may_be_silent = True

        def run(self, given):
            trained = given.train(NO_HOOKS)
            parts = {"model": trained.model} if given.server_round % 2 else {}
            return Answer(parts, trained.metrics)

    rounds = Rounds(tmp_path, f"strategy={strategy} codec=nf4 clients_per_round=2")
    monkeypatch.setattr(rounds.here, "method", Every2nd())
    first, second, third = (rounds.round(number)[0] for number in (1, 2, 3))
    assert same(first, second)
    assert not same(second, third)


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (lambda new: dict(reversed(new.items())), True),
        (lambda new: {name: x.astype(np.float64) for name, x in new.items()}, False),
        (lambda new: {f"{name}.": x for name, x in new.items()}, False),
        (lambda new: {}, False),
    ],
)
def test_what_a_method_remembers_comes_back_by_name_or_is_refused(
    tmp_path: Path, monkeypatch, change, goes_on: bool
) -> None:
    seen = []

    class Numbers(LocalMethod):
        """Numbers its tensors, and adds the numbers up."""

        def start(self, theta0):
            return zeros(theta0)

        def run(self, given):
            seen.append(given.memory)
            new = {name: x + i for i, (name, x) in enumerate(given.memory.items())}
            trained = given.train(NO_HOOKS)
            return Answer({"model": trained.model}, trained.metrics, lambda sent: change(new))

    rounds = Rounds(tmp_path, "strategy=fedavg codec=fp32 clients_per_round=3")
    monkeypatch.setattr(rounds.here, "method", Numbers())
    monkeypatch.setitem(rounds.here.__dict__, "method_remembers", True)
    if not goes_on:
        with pytest.raises(RoundFailedError, match="should return the names, shapes and types"):
            rounds.round(1)
        return
    rounds.round(1)
    rounds.round(2)
    for memory in seen[3:]:
        assert [*memory] == [*rounds.here.theta0]
        assert all((x == i).all() for i, x in enumerate(memory.values()))


def test_no_client_moves_another_part_further_than_the_limit(tmp_path: Path, caplog) -> None:
    """Or one reply with the largest floats would be in c for ever, and end the run by overflow."""
    rounds = Rounds(tmp_path, "strategy=scaffold clients_per_round=3 codec=fp32")
    here, form = rounds.here, rounds.here.forms[DEFAULT].up

    def huge(reply: Message) -> Message:
        reference = here.references(form)
        wire = unpack(frame(reply), form.whole, here.manifest)
        parts = form.separate(form.whole.decode(wire, reference))
        largest = np.finfo(np.float32).max
        parts["control"] = {n: np.full_like(x, largest) for n, x in parts["control"].items()}
        wire, _ = form.whole.encode(form.join(parts), form.whole.init(reference), reference)
        return put(reply, pack(wire, form.whole, here.manifest))

    rounds.round(1)
    assert "scaled down" not in caplog.text
    rounds.grid.tamper = {0: huge, 1: huge}
    before = deepcopy(rounds.coded.inner.c)
    rounds.round(2)
    assert "the control of client 1 has a root mean square of" in caplog.text
    assert rms(rounds.coded.inner.c, before) <= 1.0


def test_replies_may_have_the_size_of_all_their_parts(tmp_path: Path, monkeypatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr("fl_app.server.uplink.bound_replies", limits.append)
    Rounds(tmp_path, "strategy=fedavg codec=fp32")
    Rounds(tmp_path, "strategy=scaffold codec=fp32 +strategy.forms.default.up.more={id:fp32}")
    model, three_parts = (limit - MESSAGE_BYTES for limit in limits)
    assert three_parts == 3 * model > 0


def test_silence_of_a_method_that_speaks_is_refused(tmp_path: Path) -> None:
    rounds = Rounds(
        tmp_path,
        "strategy=fedavg codec=nf4 clients_per_round=2 federation.max_failures=0.5",
        tamper={0: silent, 1: silent},
    )
    rounds.round(1)
    up = {row.partition: row for row in rounds.ledger.rows if row.direction == "up"}
    assert any(row.message_bytes and not row.payload_bytes for row in up.values())
    assert rounds.coded.uplink.accepted(0) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy=scaffold strategy.inner.clients=4", "strategy.inner.clients=4 should be"),
        (
            "strategy=scaffold strategy.local._target_=strategies.fedprox.FedProxClient",
            "strategy.local should be",
        ),
        (
            "strategy=scaffold +strategy.forms.x={up:{model:{id:fp32}}}",
            "should have `down` and `up`",
        ),
        ("strategy=scaffold +strategy.forms.x={up:{},down:{model:{id:fp32}}}", "should name parts"),
        (
            "strategy=scaffold +strategy.forms.default.up.metrics={id:fp32}",
            "forms.default.up: no part may be called metrics",
        ),
        (
            "strategy=scaffold +strategy.forms.x.up.model={id:by_part,codecs:[{id:fp32}],names:[1]}"
            " +strategy.forms.x.down={model:{id:fp32}}",
            "names should be texts",
        ),
        ("codec.up={id:by_part,codecs:[{id:fp32}],names:null}", "names should be a list"),
        (
            "strategy=scaffold +strategy.forms.x={up:{model:{id:nope}},down:{model:{id:fp32}}}",
            "unknown codec id 'nope'",
        ),
        (
            "strategy=scaffold codec=sign +strategy.forms.x={up:{model:{id:fp32}},"
            "down:{model:{id:fp32}}}",
            "a codec that remembers has to be the same",
        ),
    ],
)
def test_wrong_parts_are_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=1 {words}"))


def test_without_forms_a_message_is_the_model_alone() -> None:
    codec = {"down": {"id": "nf4"}, "up": {"id": "fp32"}}
    (form,) = forms(codec, None).values()
    assert form.name == DEFAULT
    assert form.up.whole.spec == from_spec({"id": "fp32"}).spec
    assert form.down.whole.spec == plain_form(codec).down.whole.spec
