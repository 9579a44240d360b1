"""What Fed-SB is compared with: FFA-LoRA, FLoRA, FedEx-LoRA and FlexLoRA, against their papers."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer

from fl_app import models
from fl_app.build import forget_session, open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.session import Session
from fl_app.tasks.documents import Collator
from fl_app.tree import Tree
from fl_app.wire.messages import BARE
from strategies._lora_factors import stacked
from strategies.flex_lora import best
from tests import architectures
from tests.combinations import combinations
from tests.messages import put, said, who
from tests.rounding import apart, assert_within, summed, through
from tests.server.test_coded import Rounds, cohort, same

SMALL = (
    "codec=fp32 adapter.r=4 adapter.alpha=8 batch_size=2 optimizer.lr=1e-2 "
    "evaluate_clients_per_round=1"
)
METHODS = {
    "fedit": f"{SMALL} adapter=lora strategy=fedavg",
    "ffa_lora": f"{SMALL} adapter=ffa_lora strategy=fedavg",
    "flora": f"{SMALL} adapter=lora strategy=flora",
    "fedex_lora": f"{SMALL} adapter=lora strategy=fedex_lora",
    "flex_lora": f"{SMALL} adapter=lora strategy=flex_lora",
}
EXACT, PATCHING = ("ffa_lora", "flora", "fedex_lora"), ("flora", "fedex_lora")
K, R = 3, 4
ROUNDING = summed(2 * (K * R + 2))  # of two rounds' patches: K R products, and W0


class Federation(Rounds):
    """Server and nodes in one process, but with sessions of their own."""

    models: list[tuple[dict, list[dict]]]  # the model after a round, and those of its clients

    def __init__(
        self, tmp_path: Path, method: str, more: str = "", tamper=None, nodes: int = K
    ) -> None:
        self.method = method
        forget_session()
        super().__init__(tmp_path, f"{METHODS[method]} clients_per_round={K} {more}", tamper, nodes)
        forget_session()

    def trained(self, number: int) -> list[Tree]:
        """Return what the clients make of the server's model, trained outside of Flower."""
        return [self.client(k, number, self.tree) for k in range(K)]

    def sent(self, number: int, direction: str = "down") -> list[int]:
        """Return the payloads of a round's training."""
        return [
            r.payload_bytes
            for r in self.ledger.rows
            if (r.round, r.kind, r.direction) == (number, "train", direction) and r.payload_bytes
        ]


def weights(here: Session, tree: Tree) -> dict[str, np.ndarray]:
    """Return W0 + alpha/r B A of every adapted module, in float64."""
    here.adapter.set(here.model, tree)
    return {
        name: layer.base_layer.weight.detach().double().numpy()
        + layer.scaling["default"]
        * (
            layer.lora_B["default"].weight.detach().double().numpy()
            @ layer.lora_A["default"].weight.detach().double().numpy()
        )
        for name, layer in here.model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def miss(got: dict, wanted: list[dict], shares) -> float:
    """Return how far ``got`` is from the mean of ``wanted``, at most, over the largest weight."""
    return max(
        np.abs(got[name] - np.average([w[name] for w in wanted], axis=0, weights=shares)).max()
        / np.abs(got[name]).max()
        for name in got
    )


# ---- exactness ---------------------------------------------------------------------------


def tripled(reply: Message) -> Message:
    if BARE not in reply.content:  # the answer to a patch
        return reply
    return put(reply, **{"num-examples": 3 * said(reply)["num-examples"]})


@pytest.fixture(scope="module")
def two_rounds(request, tmp_path_factory) -> Federation:
    """Two rounds of a method, of which client 1 counts for three; and the clients' own models."""
    rounds = Federation(tmp_path_factory.mktemp("run"), request.param, tamper={1: tripled})
    rounds.models = []
    for number in (1, 2):
        clients = [weights(rounds.here, tree) for tree in rounds.trained(number)]
        rounds.round(number)
        rounds.models.append((weights(rounds.here, rounds.tree), clients))
    return rounds


@pytest.mark.parametrize("two_rounds", METHODS, indirect=True)
def test_the_model_is_the_mean_of_the_clients_models(two_rounds: Federation) -> None:
    """And for a mean of A and a mean of B, or a truncated SVD, it is not."""
    for model, clients in two_rounds.models:
        missed = miss(model, clients, shares=[1, 3, 1])
        if two_rounds.method in EXACT:
            assert missed < ROUNDING
        else:
            assert missed > 1e-3


@pytest.mark.parametrize("two_rounds", METHODS, indirect=True)
def test_every_byte_of_a_method_is_counted(two_rounds: Federation) -> None:
    """In models of LoRA's size, fp32: FLoRA brings K + 1 down, FedEx-LoRA K, the others one.

    The first download need not bring any: what comes of it is theta0.
    """
    here, method = two_rounds.here, two_rounds.method
    lora = sum(
        4 * layer.r["default"] * (layer.in_features + layer.out_features)
        for layer in here.model.modules()
        if isinstance(layer, LoraLayer)
    )
    model = 4 * sum(values.size for values in here.theta0.values())
    assert model == lora if method != "ffa_lora" else 0.3 * lora < model < 0.7 * lora
    patch = {"flora": K * lora, "fedex_lora": (K - 1) * lora}.get(method)
    assert two_rounds.sent(1) == []
    assert two_rounds.sent(1, "up") == two_rounds.sent(2, "up") == [model] * K
    assert sorted(two_rounds.sent(2)) == sorted([model] * K + ([patch] * K if patch else []))


@pytest.mark.parametrize("two_rounds", [*PATCHING, "ffa_lora"], indirect=True)
def test_the_saved_adapter_is_the_model_on_the_base_of_the_start(
    two_rounds: Federation, tmp_path: Path
) -> None:
    here = two_rounds.here
    here.adapter.set(here.model, two_rounds.tree)
    here.adapter.export(here.model, tmp_path)
    base, tokenizer = models.load(here.cfg.model, here.cfg.seed, here.cfg.task)
    batch = Collator(tokenizer, base.config, here.cfg.model.max_length).training(
        here.data["test"].to_list()
    )
    before = logits(base, batch)
    loaded = logits(PeftModel.from_pretrained(base, tmp_path), batch)
    bound = through(base)
    assert apart(loaded, logits(here.model, batch)) < bound < 0.1 * apart(loaded, before)


def logits(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize("two_rounds", METHODS, indirect=True)
def test_a_client_scores_the_servers_model(two_rounds: Federation) -> None:
    """Whatever the process of its node has done before."""
    here, coded = two_rounds.here, two_rounds.coded
    for forget in (False, True):
        if forget:
            forget_session()
        messages = list(
            coded.configure_evaluate(2, two_rounds.arrays, ConfigRecord(), two_rounds.grid)
        )
        (reply,) = two_rounds.grid.send_and_receive(messages)
        assert not reply.has_error()
        documents = here.documents(who(messages[0]))
        expected = here.evaluate(two_rounds.tree, documents)
        got = reply.content["metrics"]
        assert {name: got[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("method", combinations(EXACT, suite=["flora"]))
def test_all_count_the_same_if_asked(tmp_path: Path, method: str) -> None:
    rounds = Federation(tmp_path, method, "strategy.inner.weighted_by_key=one", {1: tripled})
    clients = [weights(rounds.here, tree) for tree in rounds.trained(1)]
    rounds.round(1)
    assert miss(weights(rounds.here, rounds.tree), clients, shares=None) < ROUNDING


def test_what_is_no_factor_is_averaged(tmp_path: Path) -> None:
    """And FLoRA's factors go back to their start: A of the seed, B = 0."""
    rounds = Federation(
        tmp_path, "flora", "adapter.modules_to_save=[spatial] strategy.inner.weighted_by_key=one"
    )
    start, clients = rounds.tree, rounds.trained(1)
    tree, _ = rounds.round(1)
    factors = [name for name in tree if ".lora_" in name]
    assert same({n: tree[n] for n in factors}, {n: start[n] for n in factors})
    others = {*tree} - {*factors}
    assert others
    for name in others:
        values = np.array([client[name] for client in clients], np.float64)
        mean = values.mean(axis=0)
        assert apart(start[name], mean) > 1e-3
        assert_within(tree[name], mean, summed(K, np.abs(values).max()))


# ---- nodes -------------------------------------------------------------------------------


def test_a_client_that_comes_late_gets_all_that_was_before(tmp_path: Path) -> None:
    """Client 2 is first asked in round 3; a node's process is not built anew for it."""
    rounds = Federation(tmp_path, "flora", "clients_per_round=1 strategy.sampler=uniform seed=2")
    for number in (1, 2):
        rounds.round(number)
    ready = open_session(rounds.overrides)
    assert ready is not rounds.here
    start = rounds.tree
    (trained,) = [weights(rounds.here, rounds.client(2, 3, start))]
    rounds.round(3)
    rows = [r for r in rounds.ledger.rows if r.round == 3 and r.kind == "train" and r.payload_bytes]
    assert {r.partition for r in rows} == {2}
    assert [r.direction for r in rows] == ["down", "down", "down", "up"]  # 2 patches and the start
    assert miss(weights(rounds.here, rounds.tree), [trained], None) < ROUNDING
    assert open_session(rounds.overrides) is ready


def test_one_reply_has_no_residual(tmp_path: Path) -> None:
    rounds = Federation(tmp_path, "fedex_lora", "clients_per_round=1")
    trained = rounds.trained(1)
    tree, _ = rounds.round(1)
    (client,) = cohort(rounds.ledger.rows)
    assert same(tree, trained[client])
    assert rounds.coded.patches.made == []
    rounds.round(2)
    assert len(rounds.sent(2)) == 1


@pytest.mark.parametrize("method", combinations(PATCHING, suite=["fedex_lora"]))
def test_a_node_that_lost_its_state_is_healed(tmp_path: Path, method: str) -> None:
    rounds = Federation(tmp_path, method)
    rounds.round(1)
    rounds.round(2)
    context = next(c for c in rounds.grid.contexts.values() if c.node_config["partition-id"] == 1)
    context.state = RecordDict()
    for number, came in ((3, {0, 2}), (4, {0, 1, 2})):
        rounds.round(number)
        up = [r for r in rounds.ledger.rows if (r.round, r.kind) == (number, "train") and r.scalars]
        assert {r.partition for r in up if r.direction == "up"} == came
    patches = [r for r in rounds.ledger.rows if r.round == 4 and r.direction == "down"]
    assert len([r for r in patches if r.partition == 1 and r.payload_bytes]) == 3 + 1


def test_nodes_with_several_clients_get_a_patch_once(tmp_path: Path) -> None:
    alone = Federation(tmp_path, "flora")
    shared = Federation(tmp_path, "flora", "federation.clients_per_node=2", nodes=2)
    for rounds in (alone, shared):
        forget_session()
        rounds.round(1)
        rounds.round(2)
    assert same(alone.tree, shared.tree)
    assert len(alone.sent(2)) == K + K
    assert len(shared.sent(2)) == K + 2


@pytest.mark.parametrize(
    ("method", "codec"),
    combinations(
        product([*PATCHING, "flex_lora"], ["nf4", "sign", "thin"]),
        suite=[("flora", "sign"), ("fedex_lora", "thin"), ("flex_lora", "nf4")],
    ),
)
def test_a_method_learns_under_a_codec(tmp_path: Path, method: str, codec: str) -> None:
    rounds = Federation(tmp_path, method, f"codec={codec}")
    before = weights(rounds.here, rounds.tree)
    for number in (1, 2):
        rounds.round(number)
        assert len(rounds.sent(number, "up")) == K
    after = weights(rounds.here, rounds.tree)
    assert any(np.abs(after[name] - before[name]).max() > 1e-3 for name in after)


# ---- what does not go together -----------------------------------------------------------


@pytest.mark.parametrize("strategy", ["flora", "fedex_lora", "flex_lora"])
@pytest.mark.parametrize("adapter", ["full", "ffa_lora", "lora_sb"])
def test_other_adapters_are_refused(strategy: str, adapter: str) -> None:
    with pytest.raises(ConfigError, match="set adapter=lora, not"):
        check(compose(f"strategy={strategy} adapter={adapter}"))


@pytest.mark.parametrize("strategy", PATCHING)
def test_quantized_bases_are_refused(tmp_path: Path, strategy: str) -> None:
    architectures.model("llama").save_pretrained(tmp_path)
    architectures.tokenizer("<s> $A").save_pretrained(tmp_path)
    more = (
        f"model=huggingface model.path={tmp_path} model.quantization=4bit data=word_problems "
        "task=word_problems"
    )
    with pytest.raises(ConfigError, match=r"set model\.quantization=none"):
        check(compose(f"strategy={strategy} adapter=lora {more}"))


def test_factors_of_other_layers_are_refused(tmp_path: Path) -> None:
    rounds = Federation(tmp_path, "flora", "adapter.target_modules=[q,shared]")
    with pytest.raises(ValueError, match="with linear layers alone"):
        rounds.round(1)


# ---- FlexLoRA ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 5), out=st.integers(1, 12), into=st.integers(1, 12),
    r=st.integers(1, 6), seed=st.integers(0, 99),
)  # fmt: skip
def test_flex_lora_is_the_best_of_its_rank(
    clients: int, out: int, into: int, r: int, seed: int
) -> None:
    """Eckart-Young: what is lost is the singular values after the r-th."""
    rng = np.random.default_rng(seed)
    b, a = rng.standard_normal((clients, out, r)), rng.standard_normal((clients, r, into))
    total = np.einsum("kor,kri->oi", b, a)
    best_b, best_a = best(*stacked(b, a), r)
    assert (best_b.shape, best_a.shape) == ((out, r), (r, into))
    lost = np.linalg.norm(total - best_b @ best_a)
    singular = np.linalg.svd(total, compute_uv=False)
    np.testing.assert_allclose(lost, np.linalg.norm(singular[r:]), atol=1e-9 * singular[0])
