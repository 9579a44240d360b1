"""Fed-SB in a federation: the first step, its traffic, and the exact mean of R."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fl_app.adapters.lora_sb.factors import installed, outer, to_tree
from fl_app.adapters.lora_sb.gradients import mean_factors
from fl_app.build import forget_session, open_session
from fl_app.client import patches
from fl_app.codecs import Wire, from_spec
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.round import RoundFailedError
from fl_app.server.start import set_up
from fl_app.tree import Tree, digest
from fl_app.wire.envelope import enclosed, frame_in
from fl_app.wire.frame import pack, unpack
from fl_app.wire.messages import setup_question
from fl_app.wire.patch import patch_message
from fl_app.wire.records import to_record
from tests import small
from tests.combinations import combinations
from tests.loopback import Loopback
from tests.messages import who
from tests.rounding import assert_orthonormal, assert_within, summed
from tests.server.test_coded import Rounds, cohort

FED_SB = "adapter=lora_sb adapter.r=4 adapter.init_samples=6 strategy=fed_sb clients_per_round=2"


class SetUp(Rounds):
    """A federation after its set-up. Server and nodes are one process, but no one session."""

    def __init__(self, tmp_path: Path, overrides: str, tamper=None, nodes: int = 3) -> None:
        forget_session()
        super().__init__(tmp_path, overrides, tamper, nodes)
        forget_session()
        set_up(self.coded, self.grid)
        self.arrays = to_record(self.here.theta0)

    def rows(self, kind: str, direction: str = "down", after_round: int = -1):
        return [
            r
            for r in self.ledger.rows
            if (r.kind, r.direction) == (kind, direction) and r.round > after_round
        ]

    def factors(self) -> list:
        """Set-up rows that carry B, R and A."""
        return [r for r in self.rows("setup") if r.scalars]


def from_public(here) -> Tree:
    """B, R and A as they are before any codec."""
    return here.setup.from_public(here.model, here.data, here.task.training)


def products(here, tree: Tree, change=np.asarray) -> dict[str, np.ndarray]:
    """Return B R A of every module, in float64, each of the three changed beforehand."""
    here.adapter.set(here.model, tree)
    return {
        name: np.linalg.multi_dot([change(part.double().numpy()) for part in factors])
        for name, factors in installed(here.model).items()
    }


# ---- the mean of R -----------------------------------------------------------------------


@pytest.mark.parametrize("weight", combinations(["one", "num-examples"], suite=["num-examples"]))
def test_the_mean_of_r_is_the_mean_of_the_updates(tmp_path: Path, weight: str) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 strategy.inner.weighted_by_key={weight}")
    here, start = rounds.here, rounds.here.theta0
    tree, _ = rounds.round(1)
    clients = cohort(rounds.ledger.rows)
    trained = [products(here, rounds.client(c, 1, start)) for c in clients]
    counts = [sum(map(len, here.documents(c)["questions"])) for c in clients]
    weights = counts if weight == "num-examples" else None
    sizes = [products(here, rounds.client(c, 1, start), np.abs) for c in clients]
    for name, product in products(here, tree).items():
        mean = np.average([t[name] for t in trained], axis=0, weights=weights)
        largest = max(size[name].max() for size in sizes)
        assert_within(product, mean, summed(2, largest))  # R's mean is rounded to float32


def test_the_mean_of_a_and_the_mean_of_b_are_not(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, "adapter=lora strategy=fedavg codec=fp32 batch_size=1 "
                   "clients_per_round=2 strategy.inner.weighted_by_key=one")  # fmt: skip
    tree, _ = rounds.round(1)
    trained = [rounds.client(c, 1, rounds.here.theta0) for c in cohort(rounds.ledger.rows)]
    (first, *_) = [name for name in tree if "lora_A" in name]

    def product(held: Tree) -> np.ndarray:
        return held[first.replace("lora_A", "lora_B")] @ held[first]

    mean = np.mean([product(t) for t in trained], axis=0)
    assert np.abs(product(tree) - mean).max() > 0.01 * np.abs(mean).max()


def test_b_and_a_stay_and_start_orthonormal(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32")
    before = digest(outer(rounds.here.model))
    for number in (1, 2):
        rounds.round(number)
    assert digest(outer(rounds.here.model)) == before
    for factors in installed(rounds.here.model).values():
        for columns in (factors.B, factors.A.T):
            assert_orthonormal(columns)


# ---- set-up traffic ----------------------------------------------------------------------


def test_every_node_gets_the_factors_once_before_it_trains(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32")
    assert rounds.factors() == []
    seen: set[int] = set()
    for number in (1, 2, 3):
        rounds.round(number)
        trained = {r.partition for r in rounds.rows("train") if r.round == number}
        sent = {r.partition for r in rounds.factors() if r.round == number}
        assert sent == trained - seen
        seen |= trained
    layers = installed(rounds.here.model).values()
    scalars = sum(part.numel() for factors in layers for part in factors)
    for row in rounds.factors():
        assert (row.scalars, row.payload_bytes) == (scalars, 4 * scalars)
        assert row.payload_bytes < row.frame_bytes < row.message_bytes
    assert rounds.ledger.sent(until=3) == sum(r.message_bytes for r in rounds.ledger.rows)


def test_the_codec_of_the_way_down_is_that_of_the_factors_too(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=nf4")
    rounds.round(1)
    assert {r.codec for r in rounds.factors()} == {"delta+nf4"}
    assert 4.5 <= 8 * rounds.factors()[0].payload_bytes / rounds.factors()[0].scalars < 5
    assert not np.array_equal(  # the server uses what arrives, not what it sent
        outer(rounds.here.model)[next(iter(outer(rounds.here.model)))],
        from_public(rounds.here)[next(iter(outer(rounds.here.model)))],
    )


def test_a_seed_only_set_up_sends_nothing_and_finds_the_same(tmp_path: Path) -> None:
    downloaded = SetUp(tmp_path, f"{FED_SB} codec=fp32")
    tree, _ = downloaded.round(1)
    derived = SetUp(tmp_path, f"{FED_SB} codec=fp32 adapter.setup=derive")
    again, _ = derived.round(1)
    assert derived.rows("setup", after_round=0) == [] == derived.factors()
    assert digest(again) == digest(tree)


def test_random_factors_send_nothing_and_need_no_data(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 adapter.init=random")
    tree, _ = rounds.round(1)
    assert rounds.factors() == []
    assert not any(values.any() for values in rounds.here.theta0.values())
    assert any(values.any() for values in tree.values())


def test_a_client_that_derives_other_factors_is_told(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 adapter.setup=derive")
    for context in rounds.grid.contexts.values():
        context.run_config["overrides"] += " adapter.init_batch_size=2"
    with pytest.raises(RoundFailedError, match="theta0 or the trained tensors differ"):
        rounds.round(1)


# ---- whose gradients ---------------------------------------------------------------------


@pytest.mark.parametrize(("init", "asked"), [("client_mean", [0, 1, 2]), ("first_client", [0])])
def test_clients_send_the_signs_of_their_gradients_once(
    tmp_path: Path, init: str, asked: list[int]
) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 adapter.init={init}")
    rows = [r for r in rounds.rows("setup", "up") if r.codec == "sign"]
    assert [r.partition for r in rows] == asked
    for row in rows:
        assert row.payload_bytes == -(-row.scalars // 8) + 4
    mine = open_session(f"{rounds.overrides} seed={rounds.here.cfg.seed}")  # at W0, without patches
    signs = [
        mine.setup.answer(mine.model, mine.documents(client), mine.task.training, client)
        for client in asked
    ]
    wanted = to_tree(mean_factors(signs, mine.cfg.adapter))
    assert digest(to_tree(installed(rounds.here.model))) == digest(wanted)
    forget_session()
    rounds.round(1)
    assert len([r for r in rounds.rows("setup", "up") if r.codec == "sign"]) == len(asked)


def test_a_client_without_signs_ends_the_set_up(tmp_path: Path) -> None:
    forget_session()
    rounds = Rounds(tmp_path, f"{FED_SB} codec=fp32 adapter.init=client_mean", {1: lambda _: None})
    with pytest.raises(RuntimeError, match="client 1 sent no signs of its gradient in time"):
        set_up(rounds.coded, rounds.grid)
    assert any(r.codec == "sign" for r in rounds.ledger.rows)  # what was sent is counted


def test_signs_of_one_client_weigh_no_more_than_those_of_another(tmp_path: Path) -> None:
    def louder(reply: Message) -> Message:
        """The same signs, of a scale that the codec has room for."""
        codec, frame = from_spec({"id": "sign", "scope": "tree"}), frame_in(reply.content)
        scale, signs = unpack(frame, codec, frame[10:18]).sections
        loud = (1000 * np.frombuffer(scale, "<f4")).astype("<f4").tobytes()
        reply.content = RecordDict(enclosed(pack(Wire((loud, signs)), codec, frame[10:18])))
        return reply

    forget_session()
    rounds = Rounds(tmp_path, f"{FED_SB} codec=fp32 adapter.init=client_mean", {1: louder})
    with pytest.raises(RuntimeError, match=r"client 1.* \+1 and -1 alone"):
        set_up(rounds.coded, rounds.grid)


@pytest.mark.parametrize("more", ["", "privacy=dp_sgd"])
def test_a_client_sends_no_signs_that_the_configuration_does_not_ask_for(more: str) -> None:
    overrides = f"{small.RUN} {FED_SB} codec=fp32 {more}"
    grid = Loopback(overrides, 3)
    reply = grid.deliver(setup_question(next(iter(grid.contexts)), 0))
    assert reply is not None
    assert "requests no gradient signs" in reply.error.reason


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("strategy=fed_sb adapter=lora", "set adapter=lora_sb"),
        ("adapter=lora_sb adapter.init=client_mean adapter.setup=derive", "adapter.setup=download"),
        ("adapter=lora_sb adapter.init=best", "client_mean"),
        ("adapter=lora_sb adapter.setup=ask", "derive"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    assert says in str(caught.value)


# ---- nodes -------------------------------------------------------------------------------


def test_a_node_that_lost_its_state_gets_the_factors_again(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 clients_per_round=3")
    rounds.round(1)
    context = next(c for c in rounds.grid.contexts.values() if c.node_config["partition-id"] == 1)
    context.state = RecordDict()
    forget_session()  # its process is a new one too
    rounds.round(2)
    assert {r.partition for r in rounds.rows("train", "up") if r.round == 2 and r.scalars} == {0, 2}
    rounds.round(3)
    assert [r.partition for r in rounds.factors() if r.round == 3] == [1]
    assert {r.partition for r in rounds.rows("train", "up") if r.round == 3 and r.scalars} == {
        0, 1, 2,
    }  # fmt: skip


def test_a_damaged_patch_is_refused_and_not_kept(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32")
    node, context = next(iter(rounds.grid.contexts.items()))
    (patch,) = rounds.coded.patches.made
    damaged = bytearray(patch.frame)
    damaged[-1] ^= 1
    for frame, number, says in (
        (bytes(damaged), 0, "CRC"),
        (patch.frame, 1, "lost its state"),
        (patch.frame[:20], 0, "truncated"),
    ):
        message = patch_message(node, number, patch.rank, 0, frame)
        reply = rounds.grid.deliver(message)
        assert reply is not None
        assert reply.has_error()
        assert says in reply.error.reason
        assert not context.state.get(patches.FRAMES)


PRIVATE = ["lora_sb strategy=fed_sb", "lora", "ffa_lora"]


@pytest.mark.parametrize("adapter", combinations(PRIVATE, suite=PRIVATE[:1]))
def test_private_turns_repeat_and_say_no_loss(tmp_path: Path, adapter: str) -> None:
    words = (
        f"strategy=fedavg adapter={adapter} adapter.r=4 codec=nf4 clients_per_round=2 "
        "privacy=dp_sgd privacy.epsilon=8 privacy.noise=seeded"
    )
    trees = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        rounds = SetUp(folder, words)
        tree, metrics = rounds.round(1)
        assert "loss" not in metrics
        trees.append(tree)
    assert digest(trees[0]) == digest(trees[1])
    assert any(np.abs(tree - start).max() > 0 for tree, start in zip(
        trees[0].values(), rounds.here.theta0.values(), strict=True
    ))  # fmt: skip


def test_scores_of_clients_are_of_the_patched_model(tmp_path: Path) -> None:
    rounds = SetUp(tmp_path, f"{FED_SB} codec=fp32 evaluate_clients_per_round=1")
    messages = list(rounds.coded.configure_evaluate(1, rounds.arrays, ConfigRecord(), rounds.grid))
    (reply,) = rounds.grid.send_and_receive(messages)
    client = who(messages[0])
    here = rounds.here
    expected = here.evaluate(here.theta0, here.documents(client))
    scored = reply.content["metrics"]
    assert {name: scored[name] for name in expected} == pytest.approx(expected)


def test_the_embedded_public_documents_are_of_other_providers() -> None:
    data = open_session(f"{small.RUN} data.public_documents=50").data
    providers = {split: {*data[split]["provider"]} for split in data}
    others = providers["train"] | providers["test"] | providers["unseen"]
    assert not providers["public"] & others
    assert len(providers["public"]) == len(data["public"]) == 50
