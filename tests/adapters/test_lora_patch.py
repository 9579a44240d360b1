"""Changes of the weights under a LoRA: what they add, and how an export brings them along."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from fl_app.adapters import lora
from fl_app.adapters.lora_patch import Product
from fl_app.config import compose
from fl_app.tree import Tree
from tests import architectures
from tests.rounding import apart, assert_within, summed, through

R, ALPHA = 4, 10  # alpha / r is no power of two


def adapter(**values) -> DictConfig:
    cfg = OmegaConf.create(dict(compose("adapter=lora").adapter))
    return OmegaConf.merge(cfg, {"r": R, "alpha": ALPHA} | values)


def gpt2() -> PreTrainedModel:
    """A model whose linear layers hold their weights as [in, out]."""
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=architectures.VOCABULARY, **sizes)).eval()


def tied() -> PreTrainedModel:
    return architectures.model("gemma2")


BASES = {
    "llama": (lambda: architectures.model("llama"), {}),
    "bert": (lambda: architectures.model("bert"), architectures.ADAPTERS["bert"]),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "tied": (tied, {"target_modules": ["q_proj", "lm_head"]}),
}


def attached(name: str, **values) -> PeftModel:
    base, changes = BASES[name]
    return lora.attach(base(), adapter(**changes, **values), 0)


def random_like(tree: Tree, seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    return {
        name: (0.1 * rng.standard_normal(values.shape)).astype(np.float32)
        for name, values in tree.items()
    }


def logits(model: nn.Module, name: str) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(**architectures.batch("bert" if name == "bert" else "llama")).logits


@pytest.mark.parametrize("name", BASES)
def test_a_patch_is_a_lora_that_stays(name: str) -> None:
    """Added to the base, B and A do what they did as the adapter's own factors."""
    own = attached(name)
    factors = random_like(lora.get(own), 0)
    lora.set(own, factors)
    patched = attached(name)
    like = lora.patch_like(patched, R)
    patch = {
        key: factors[f"{key[:-2]}.lora_{key[-1]}.default.weight"] for key in like
    }  # fmt: skip
    assert [values.shape for values in patch.values()] == [x.shape for x in like.values()]
    rest = {key: x for key, x in factors.items() if ".lora_" not in key}
    lora.set(patched, lora.get(patched) | rest)
    before = logits(patched, name)
    lora.patch(patched, patch, adapter())
    assert apart(logits(patched, name), logits(own, name)) < through(own)
    assert apart(before, logits(own, name)) > 10 * through(own)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("ranks", [[3], [5, 2, 5], [40, 40]], ids=str)
def test_an_export_is_for_the_base_as_it_was(tmp_path: Path, name: str, ranks: list[int]) -> None:
    model = attached(name)
    start = logits(model, name)
    lora.set(model, random_like(lora.get(model), 9))
    for seed, rank in enumerate(ranks):
        lora.patch(model, random_like(lora.patch_like(model, rank), seed), adapter())
    lora.export(model, tmp_path)
    loaded = PeftModel.from_pretrained(BASES[name][0](), tmp_path)
    assert apart(logits(loaded, name), logits(model, name)) < through(loaded)
    assert apart(start, logits(model, name)) > 10 * through(loaded)
    whole = next(m for m in loaded.modules() if hasattr(m, "r"))
    smaller = max(min(m.in_features, m.out_features) for m in loaded.modules() if hasattr(m, "r"))
    assert whole.r["default"] == min(R + sum(ranks), smaller)


def test_a_patch_leaves_no_trace_in_what_is_trained() -> None:
    model = attached("llama")
    before = lora.get(model)
    lora.patch(model, random_like(lora.patch_like(model, 3), 0), adapter())
    after = lora.get(model)
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_embedding_that_shares_the_weight_of_a_head_stays() -> None:
    model = attached("tied")
    embedding = model.get_input_embeddings()
    head = model.get_base_model().lm_head.base_layer
    assert head.weight is embedding.weight
    before = embedding.weight.detach().clone()
    lora.patch(model, random_like(lora.patch_like(model, 3), 0), adapter())
    assert torch.equal(embedding.weight, before)
    assert not torch.equal(head.weight, before)


@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_a_sum_of_products_is_no_larger_than_the_matrix(
    sides: tuple[int, int], ranks: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    out, into = sides

    def drawn(rank: int) -> Product:
        return Product(
            torch.randn(out, rank, generator=generator),
            torch.randn(rank, into, generator=generator),
        )

    parts = [drawn(rank) for rank in ranks]
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    expected = sum(part.B.double() @ part.A.double() for part in parts)
    scale = sum(float(part.B.norm() * part.A.norm()) for part in parts)
    added = sum(ranks) + 2 * len(ranks)
    assert float((total.B.double() @ total.A.double() - expected).norm()) < summed(added, scale)
    if len(ranks) > 1:
        assert total.B.shape[1] == min(sum(ranks), *sides)
    wider = total.padded(total.B.shape[1] + 3)
    assert wider.B.shape[1] == wider.A.shape[0] == total.B.shape[1] + 3
    assert_within(
        wider.B.double() @ wider.A.double(), total.B.double() @ total.A.double(), 1e-12 * scale
    )


@pytest.mark.parametrize("spoil", ["missing", "other", "shape"])
def test_a_patch_of_another_model_changes_nothing(spoil: str) -> None:
    model = attached("llama")
    before = logits(model, "llama")
    patch = random_like(lora.patch_like(model, 3), 0)
    last = list(patch)[-1]
    values = patch.pop(last)
    if spoil == "other":
        patch["other.A"] = values
    elif spoil == "shape":
        patch[last] = values[:-1]
    with pytest.raises(ValueError, match=r"modules are others|no product of"):
        lora.patch(model, patch, adapter())
    assert torch.equal(logits(model, "llama"), before)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_is_refused(tmp_path: Path, bits: int) -> None:
    architectures.model("llama").save_pretrained(tmp_path)
    model = lora.attach(architectures.quantized(tmp_path, bits), adapter(), 0)
    with pytest.raises(ValueError, match=r"model\.quantization=none"):
        lora.patch(model, lora.patch_like(model, 3), adapter())
