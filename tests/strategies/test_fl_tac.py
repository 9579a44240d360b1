"""FL-TAC: clusters, the mean that each slot gets, the router, and both halves in a run."""

import csv
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fl_app.aggregation.clusters import best_clusters, clusters, silhouette
from fl_app.aggregation.inner import EVERYONE, Cohort
from fl_app.build import open_session
from fl_app.config import ConfigError, compose, plain
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.runs.model_card import ROUTED
from fl_app.tasks.features import features
from fl_app.wire.forms import forms
from strategies.fl_tac import ADAPTERS, SLOTS, FlTac, FlTacClient, by_task, points_of
from tests.disturbed import in_process

B, A = "m.lora_B.default.weight", "m.lora_A.default.weight"
RNG = np.random.default_rng(0)
THETA0 = {B: np.zeros((6, 2), np.float32), A: RNG.normal(0, 1, (2, 5)).astype(np.float32)}
FEATURES = 4
WORDS = (
    "experiment=fl_tac federation.clients=3 clients_per_round=2 data.providers_per_client=2 "
    "data.problems_per_provider=3 data.test_problems=3 data.validation_problems=0 "
    "data.public_providers=1 data.public_problems_per_provider=1 data.unseen_providers=2 "
    "data.unseen_problems_per_provider=1 model.max_answer_length=8 local_epochs=1 logger=none"
)


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def drawn(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.normal(0, 1, x.shape)).astype(np.float32) for n, x in THETA0.items()}


def plus(one, other):
    return {n: one[n] + other[n] for n in one}


class Slots:
    """A server and clients whose slots send what a test gives them."""

    def __init__(self, slots: int = 3, clusters: int | None = 2, **options) -> None:
        self.strategy = FlTac(clusters, slots, "kind", FEATURES, **options, **EVERYONE)
        self.slots = slots
        self.loud: dict[int, float] = {}  # by client, how much it exaggerates its shares
        self.start = ArrayRecord({n: Array(x) for n, x in THETA0.items()})
        self.model: ArrayRecord = self.start
        self.got: dict[int, dict[str, np.ndarray]] = {}

    def round(self, number: int, sent: dict[int, list[tuple]]) -> None:
        """Run a round; ``sent`` is client -> (change, examples, features) of its slots."""
        asked = list(
            self.strategy.configure_train(number, self.model, ConfigRecord(), Cohort(sorted(sent)))
        )
        self.got, replies = {}, []
        for message in asked:
            client = message.metadata.dst_node_id
            self.got[client] = {
                n: x.numpy() for n, x in message.content.array_records[ADAPTERS].items()
            }
            own = sent[client]
            total = sum(count for _, count, _ in own)
            stacked = {n: np.zeros((self.slots, *x.shape), np.float32) for n, x in THETA0.items()}
            share = np.zeros(self.slots, np.float32)
            seen = np.zeros((self.slots, FEATURES), np.float32)
            for slot, (change, count, feature) in enumerate(own):
                for n, x in change.items():
                    stacked[n][slot] = x
                share[slot] = self.loud.get(client, 1.0) * count / total
                seen[slot] = feature
            content = RecordDict({
                ADAPTERS: ArrayRecord({n: Array(x) for n, x in stacked.items()}),
                SLOTS: ArrayRecord({"share": Array(share), "features": Array(seen)}),
                "metrics": MetricRecord({"num-examples": total, "loss": 0.0, "one": 1.0}),
            })  # fmt: skip
            replies.append(Message(content, reply_to=message))
        self.model, _ = self.strategy.aggregate_train(number, replies)

    def of(self, client: int, slot: int):
        return self.strategy.means[self.strategy.held[f"{client} {slot}"]]


NONE, FAR = np.zeros(FEATURES), np.full(FEATURES, 100.0)


def same(one, other, atol=1e-6) -> bool:
    return all(np.allclose(one[n], other[n], atol=atol) for n in THETA0)


# ---- clusters ------------------------------------------------------------------------------------


def accuracy(found: list[int], planted: np.ndarray) -> float:
    """Return the share of points in the right cluster, matched as well as can be."""
    n = max(max(found), planted.max()) + 1
    counts = np.zeros((n, n))
    np.add.at(counts, (found, planted), 1)
    return counts[linear_sum_assignment(-counts)].sum() / len(found)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(2, 5), each=st.integers(2, 5), seed=st.integers(0, 99))
def test_planted_clusters_are_found_whatever_their_order(n: int, each: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centers = 10 * np.eye(n, 6)
    planted = rng.permutation(np.repeat(np.arange(n), each))
    points = centers[planted] + 0.2 * rng.normal(size=(len(planted), 6))
    found = clusters(points, n, 0)
    assert accuracy(found, planted) == 1
    assert sorted(set(found)) == [*range(n)]  # none is empty
    order = rng.permutation(len(points))
    shuffled = clusters(points[order], n, 0)
    assert accuracy(shuffled, np.array(found)[order]) == 1
    assert best_clusters(points, 6, 0) == found  # and their number
    assert silhouette(points, found) > 0.8


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9),
    n=st.integers(1, 5),
)
def test_no_cluster_is_empty_and_equal_points_stay_together(points, n: int) -> None:
    found = clusters(np.array(points, float), n, 0)
    assert sorted(set(found)) == [*range(max(found) + 1)]
    if len(points) > n:
        assert max(found) < n
        assert all(
            a == b for (p, a), (q, b) in itertools.combinations(zip(points, found, strict=True), 2)
            if p == q
        )  # fmt: skip
    else:
        assert found == [*range(len(points))]


def test_the_silhouette_is_that_of_its_definition() -> None:
    points = np.random.default_rng(0).normal(size=(7, 3))
    labels = [0, 0, 0, 1, 1, 2, 1]
    scores = []
    for i, own in enumerate(labels):
        far = {
            c: np.mean([np.linalg.norm(points[i] - points[j]) for j in range(7)
                        if labels[j] == c and j != i])
            for c in range(3) if any(labels[j] == c and j != i for j in range(7))
        }  # fmt: skip
        if own not in far:
            scores.append(0.0)
            continue
        inside, outside = far[own], min(x for c, x in far.items() if c != own)
        scores.append((outside - inside) / max(outside, inside))
    assert silhouette(points, labels) == pytest.approx(np.mean(scores))


def test_a_sketch_does_not_see_a_rotation_of_the_factors() -> None:
    first = drawn(1)
    whole = plus(THETA0, first)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))
    turned = {B: whole[B] @ turn - THETA0[B], A: turn.T @ whole[A] - THETA0[A]}
    turned = {n: x.astype(np.float32) for n, x in turned.items()}
    near, far = (
        points_of([first, turned], THETA0, space, False) for space in ("sketch", "factors")
    )
    assert np.allclose(near[0], near[1], atol=1e-4)
    assert not np.allclose(far[0], far[1], atol=0.1)
    unit = points_of([first], THETA0, "change", True)
    assert np.linalg.norm(unit) == pytest.approx(1)


def test_a_head_is_not_looked_at() -> None:
    start = {**THETA0, "head": np.zeros(3, np.float32)}
    one, other = ({**drawn(1), "head": np.full(3, v, np.float32)} for v in (0, 100))
    assert np.array_equal(*points_of([one, other], start, "change", False))


# ---- the server ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted_by_key", ["num-examples", "one"])
def test_with_one_cluster_it_is_fedavg_over_all_slots(weighted_by_key: str) -> None:
    fed = Slots(clusters=1, weighted_by_key=weighted_by_key)
    sent = {0: [(drawn(1), 3, NONE), (drawn(2), 5, NONE)], 1: [(drawn(3), 8, NONE)]}
    fed.round(1, sent)
    counts = [3, 5, 8] if weighted_by_key == "num-examples" else [1, 1, 1]
    mean = {n: np.average([drawn(k)[n] for k in (1, 2, 3)], axis=0, weights=counts) for n in THETA0}
    assert all(same(fed.of(*key), mean) for key in ((0, 0), (0, 1), (1, 0)))
    model = {n: x.numpy() for n, x in fed.model.items()}
    assert same(model, plus(THETA0, mean))


def test_every_slot_gets_the_mean_of_its_own_cluster_and_others_keep_theirs() -> None:
    fed = Slots()
    one, two = drawn(1, 5), drawn(2, 5)
    near = [plus(one, drawn(k, 0.01)) for k in (3, 4, 5)]
    fed.round(1, {0: [(near[0], 1, NONE), (two, 1, NONE)], 1: [(two, 2, NONE), (near[1], 3, NONE)]})
    assert all(not x.any() for got in fed.got.values() for x in got.values())  # v_0 for all
    mean = {n: (near[0][n] + 3 * near[1][n]) / 4 for n in THETA0}
    assert same(fed.of(0, 0), mean)
    assert same(fed.of(1, 1), mean)
    assert same(fed.of(0, 1), two)  # identical adapters come back unchanged
    assert same(fed.of(1, 0), two)
    fed.round(2, {1: [(near[2], 1, NONE), (two, 1, NONE), (two, 1, NONE)]})
    assert same({n: x[1] for n, x in fed.got[1].items()}, mean)
    assert not any(x[2].any() for x in fed.got[1].values())
    assert same(fed.of(0, 0), mean)  # it was not asked
    assert same(fed.of(1, 0), near[2])
    assert len({*fed.strategy.held.values()}) == len(fed.strategy.means) <= 4


def test_where_at_most_n_arrive_each_is_its_own_cluster() -> None:
    fed = Slots(clusters=4)
    fed.round(1, {0: [(drawn(1), 1, NONE), (drawn(1), 1, NONE)], 1: [(drawn(2), 1, NONE)]})
    assert len(fed.strategy.means) == 3


def test_slots_and_clients_in_another_order_change_nothing() -> None:
    kinds = [drawn(k, 5) for k in range(3)]
    sent = {c: [(plus(kinds[k], drawn(10 * c + k, 0.01)), 1, NONE) for k in (0, 1, 2)]
            for c in range(3)}  # fmt: skip
    fed, other = Slots(clusters=3), Slots(clusters=3)
    fed.round(1, sent)
    other.round(1, {2 - c: own[::-1] for c, own in sent.items()})
    for c, k in itertools.product(range(3), range(3)):
        assert same(fed.of(c, k), other.of(2 - c, 2 - k))
        assert same(fed.of(c, k), fed.of(0, k))


def test_a_client_in_two_halves_is_the_same_mean() -> None:
    whole, halves = Slots(clusters=1), Slots(clusters=1)
    rest = {1: [(drawn(2), 3, NONE)]}
    whole.round(1, {0: [(drawn(1), 8, NONE)], **rest})
    halves.round(1, {0: [(drawn(1), 4, NONE)], 2: [(drawn(1), 4, NONE)], **rest})
    assert same(whole.of(1, 0), halves.of(1, 0))


def test_a_client_weighs_its_own_rows_whatever_shares_it_says() -> None:
    fed, other = Slots(clusters=1), Slots(clusters=1)
    there = {1: [(drawn(2), 3, FAR)]}
    fed.round(1, {0: [(drawn(1), 5, FAR)], **there})
    other.loud = {0: 1e6}
    other.round(1, {0: [(drawn(1), 5, FAR)], **there})
    assert same(fed.of(0, 0), other.of(0, 0))
    (centroid,) = other.strategy.centroids.values()
    assert np.linalg.norm(centroid) <= 1 + 1e-6  # features of a row have length 1
    other.loud = {0: -1.0}
    other.round(2, {0: [(drawn(3), 5, FAR)], **there})
    assert same(other.of(1, 0), drawn(2))  # shares below 0 are none


# ---- the router ----------------------------------------------------------------------------------


def routing(tau: float, names: int = 3) -> FlTac:
    strategy = FlTac(names, 3, "kind", FEATURES, tau=tau, **EVERYONE)
    strategy.centroids = {f"1 {k}": np.eye(FEATURES)[k] for k in range(names)}
    return strategy


def test_a_row_goes_to_the_nearest_centroid() -> None:
    seen = np.random.default_rng(0).normal(size=(20, FEATURES))
    found = routing(0.0).routed(seen)
    assert found == [f"1 {int(k)}" for k in seen[:, :3].argmax(1)]
    assert routing(0.0).routed(np.eye(FEATURES)[:3]) == ["1 0", "1 1", "1 2"]
    assert routing(0.0, names=1).routed(seen) == ["1 0"] * 20  # one adapter: no choice
    assert found == routing(0.0).routed(seen)


def test_the_cascade_never_or_always_escalates_at_its_ends_and_more_with_tau() -> None:
    seen = np.random.default_rng(1).normal(size=(50, FEATURES))
    counts = [routing(tau).routed(seen).count(None) for tau in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert (counts[0], counts[-1]) == (0, 50)
    assert counts == sorted(counts)
    assert routing(1.0).routed(np.eye(FEATURES)[:3]) == [None] * 3


def test_the_means_of_a_clients_rows_find_the_kind_of_others() -> None:
    here = open_session(f"{WORDS} data.providers_per_client=8 data.test_problems=40")
    own = [features(here.model, here.task, some, 32) for some in by_task(here.documents(0), "kind")]
    asked = here.data["test"].filter(lambda row: row["kind"] in here.documents(0)["kind"])
    strategy = routing(0.0)
    strategy.centroids = {
        kind: some.mean(0)
        for kind, some in zip(sorted({*here.documents(0)["kind"]}), own, strict=True)
    }
    found = strategy.routed(features(here.model, here.task, asked, 32))
    right = np.mean([kind == one for kind, one in zip(asked["kind"], found, strict=True)])
    assert len(own) > 1
    assert right >= 0.85  # by chance half at most


def test_the_router_forgets_adapters_of_earlier_rounds() -> None:
    fed = Slots(clusters=2)
    fed.round(1, {0: [(drawn(1), 5, FAR)], 1: [(drawn(2), 5, NONE)], 2: [(drawn(3), 5, NONE)]})
    fed.round(2, {1: [(drawn(4), 5, NONE)], 2: [(drawn(5), 5, FAR)]})
    assert {name.split()[0] for name in fed.strategy.centroids} == {"2"}
    assert "1" in {name.split()[0] for name in fed.strategy.means}  # client 0 still holds it


# ---- the clients ---------------------------------------------------------------------------------


def test_rows_are_split_by_task_whatever_it_is_called() -> None:
    rows = Dataset.from_dict({"kind": ["b", "a", "b"], "n": [1, 2, 3]})
    assert [one["n"] for one in by_task(rows, "kind")] == [[2], [1, 3]]
    pages = Dataset.from_list([
        {"words": ["x", "y"], "questions": ["p", "q"], "fields": ["date", "sum"],
         "answers": [["1"], ["2"]]},
        {"words": ["z"], "questions": ["r"], "fields": ["sum"], "answers": [["3"]]},
    ])  # fmt: skip
    (first, second) = by_task(Dataset.from_list([{"kinds": [2, 1]}, {"kinds": [1]}]), "kinds")
    assert (first["kinds"], second["kinds"]) == ([[1], [1]], [[2]])  # names are numbers too
    date, total = by_task(pages, "fields")
    assert date["questions"] == [["p"]]
    assert total["questions"] == [["q"], ["r"]]
    assert total["answers"] == [[["2"]], [["3"]]]
    assert total["words"] == [["x", "y"], ["z"]]
    with pytest.raises(FaultError, match=r"strategy\.inner\.column=kin: .* kind.*mean 'kind'"):
        FlTacClient("kin", 3).check_rows(rows)


def test_more_tasks_than_slots_are_refused_with_the_option_to_raise() -> None:
    turn = SimpleNamespace(rows=lambda: Dataset.from_dict({"kind": ["a", "b", "c"]}))
    with pytest.raises(
        FaultError, match=r"3 values of kind.* 2 slots: raise strategy\.inner\.slots"
    ):
        FlTacClient("kind", 2).run(turn)


def test_other_names_of_tasks_give_the_same_adapters_in_another_order() -> None:
    """With `test_slots_and_clients_in_another_order_change_nothing`, names change nothing."""
    kinds, named = ["b", "a", "b", "c"], {"a": "z", "b": "x", "c": "y"}
    rows, other = (
        Dataset.from_dict({"kind": names, "n": [1, 2, 3, 4]})
        for names in (kinds, [named[one] for one in kinds])
    )
    found, again = ([one["n"][:] for one in by_task(some, "kind")] for some in (rows, other))
    assert found != again
    assert sorted(found) == sorted(again)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tac") / "run"
    in_process(f"{WORDS} rounds=2 output.dir={folder.parent} output.name=run")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_trains_and_scores_and_sends_slots(run: Path) -> None:
    ledger = [r for r in rows_of(run / "ledger.csv") if r["kind"] == "train"]
    assert {r["round"] for r in rows_of(run / "metrics.csv")} == {"0", "1", "2"}
    slots = json.loads((run / "summary.json").read_text())["trainable_scalars"]
    for row in ledger:  # four slots each way, of which two at most have a task
        if row["direction"] == "up":
            assert int(row["scalars"]) == 4 * slots + 4 + 4 * 32
            assert int(row["payload_bytes"]) < 1.1 * 2 * 4 * slots


def test_a_card_says_that_its_scores_are_the_routers(run: Path) -> None:
    assert ROUTED in (run / "adapter" / "README.md").read_text()
    assert FlTac(1, 3, "kind", FEATURES, tau=0.5, **EVERYONE).routes
    assert not FlTac(1, 3, "kind", FEATURES, tau=1, **EVERYONE).routes
    assert not FlTac(1, 3, "kind", 0, tau=0, **EVERYONE).routes


def test_bytes_grow_with_the_number_of_tasks() -> None:
    cfg = compose(WORDS)
    codec = forms(plain(cfg.codec), plain(cfg.strategy.forms))["default"].up.codecs[ADAPTERS]
    like = {n: np.zeros((4, *x.shape, 50), np.float32) for n, x in THETA0.items()}
    rng = np.random.default_rng(0)
    whole = {n: rng.normal(size=x.shape).astype(np.float32) for n, x in like.items()}
    sizes = []
    for tasks in range(1, 5):
        tree = {n: x.copy() for n, x in whole.items()}
        for x in tree.values():
            x[tasks:] = 0
        sizes.append(codec.encode(tree, codec.init(like), like)[0].nbytes)
    values = sum(x[0].size for x in like.values())
    overhead = 4 * values / 8  # the bitmap's bits, at most
    for tasks, size in enumerate(sizes, start=1):
        assert tasks * sizes[3] / 4 - overhead <= size <= tasks * sizes[3] / 4 + overhead


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("strategy.local._target_=strategies.flasc.FlascClient", "strategy=fl_tac"),
        ("strategy.local.slots=2", "should be strategy.inner.slots=4"),
        ("strategy.inner.space=product", "factors, change, sketch"),
        ("strategy.inner.tau=2", r"\[0, 1\]"),
        ("strategy.inner.clusters=0", "from 1"),
        ("strategy.inner.max_clusters=0", "max_clusters=0 should be a whole number from 1"),
        ("strategy.inner.slots=2000", "slots=2000 should be a whole number from 1 to 1024"),
        ("strategy.inner.features=-1", "features=-1 should be a whole number from 0 to 4096"),
        ("federation.sampling=nodes", "its own slots, and must be known: set it to partitions"),
        ("strategy.inner.clusters=16", "each would be its own cluster, and nothing averaged"),
        ("strategy.inner.clusters=null strategy.inner.max_clusters=1", "whole number from 2"),
        ("strategy.inner.tau=0.5 strategy.inner.features=0", "set features, or tau=0"),
        ("strategy.inner.column=", "column= should be the name of a column"),
        ("strategy.inner.column=5", "column=5 should be the name of a column"),
        ("strategy.inner.normalized=7", "normalized=7 should be true or false"),
        ("strategy.inner.space=sketch adapter=ffa_lora", "does not train both"),
        ("strategy.inner.space=sketch adapter=tied", "does not train both"),
        ("strategy.inner.space=sketch adapter=full", "B and A"),
        ("data=docvqa_mini task=docvqa model=vt5-tiny", "features=0"),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(words: str, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        check(compose(f"experiment=fl_tac {words}"))


def test_a_method_of_many_models_has_no_part_in_secret_or_private_sums() -> None:
    assert FlTacClient("kind", 2).like(SLOTS, THETA0)["share"].shape == (2,)
    with pytest.raises(ConfigError, match="privacy=dp_sgd"):
        check(compose("experiment=fl_tac privacy=dp_sgd privacy.epsilon=8"))
