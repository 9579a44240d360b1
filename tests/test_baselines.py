"""What Fed-SB is compared with: FFA-LoRA, FLoRA, FedEx-LoRA and FlexLoRA, against their papers."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora.layer import LoraLayer

from fl_app.session import Session, session
from fl_app.tree import Tree
from strategies.flex_lora import best
from strategies.lora_replies import stacked
from tests.test_coded import Rounds, same

SMALL = "codec=fp32 adapter.r=4 adapter.alpha=8 batch_size=2 optimizer.lr=1e-2"
METHODS = {
    "fedit": f"{SMALL} adapter=lora strategy=fedavg",
    "ffa_lora": f"{SMALL} adapter=ffa_lora strategy=fedavg",
    "flora": f"{SMALL} adapter=lora strategy=flora",
    "fedex_lora": f"{SMALL} adapter=lora strategy=fedex_lora",
    "flex_lora": f"{SMALL} adapter=lora strategy=flex_lora",
}
EXACT, PATCHING = ("ffa_lora", "flora", "fedex_lora"), ("flora", "fedex_lora")
K = 3


class Federation(Rounds):
    """Server and nodes in one process, but with sessions of their own."""

    def __init__(self, tmp_path: Path, method: str, more: str = "", tamper=None) -> None:
        session.cache_clear()
        super().__init__(tmp_path, f"{METHODS[method]} clients_per_round={K} {more}", tamper)
        session.cache_clear()

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
    if "metrics" in reply.content:  # not the answer to a patch
        reply.content["metrics"]["num-examples"] *= 3
    return reply


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_the_mean_of_the_clients_models(tmp_path: Path, method: str) -> None:
    """And for a mean of A and a mean of B, or a truncated SVD, it is not."""
    rounds = Federation(tmp_path, method, tamper={1: tripled})
    for number in (1, 2):
        clients = [weights(rounds.here, tree) for tree in rounds.trained(number)]
        rounds.round(number)
        missed = miss(weights(rounds.here, rounds.tree), clients, shares=[1, 3, 1])
        if method in EXACT:
            assert missed < 2e-7
        else:
            assert missed > 1e-3


@pytest.mark.parametrize("method", EXACT)
def test_all_count_the_same_if_asked(tmp_path: Path, method: str) -> None:
    rounds = Federation(tmp_path, method, "strategy.inner.weighted_by_key=one", {1: tripled})
    clients = [weights(rounds.here, tree) for tree in rounds.trained(1)]
    rounds.round(1)
    assert miss(weights(rounds.here, rounds.tree), clients, shares=None) < 2e-7


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
        mean = np.mean([client[name] for client in clients], axis=0)
        assert not np.array_equal(start[name], mean)
        np.testing.assert_allclose(tree[name], mean, rtol=1e-5, atol=1e-7)


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
