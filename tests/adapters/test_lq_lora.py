"""LQ-LoRA: the quantizer, the alternation, the integer program, and the adapter made of them."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from bitsandbytes.functional import get_4bit_type
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from fl_app import models
from fl_app.adapters import BASE
from fl_app.adapters.lq_lora import adapter
from fl_app.adapters.lq_lora.budget import choose
from fl_app.adapters.lq_lora.decompose import Fisher, decompose
from fl_app.adapters.lq_lora.normal_float import TYPES, Width, quantize, table
from fl_app.adapters.lq_lora.start import Importance
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check_node, check_strategy
from fl_app.training.loop import train
from fl_app.tree import digest
from tests import small
from tests.rounding import apart, through

NF4 = Width(4, 8, "float32", 64, 256)
WIDTHS = st.builds(
    Width,
    st.integers(2, 8),
    st.sampled_from([2, 3, 8]),
    st.sampled_from(sorted(TYPES)),
    st.sampled_from([16, 32, 64]),
    st.sampled_from([4, 16, 256]),
)
RUN = (
    f"{small.DATA} adapter=lq_lora adapter.r=4 output.base=copy adapter.target_modules=[q,wo] "
    "adapter.iterations=3 adapter.search_iterations=1 logger=none"
)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def matrices():
    """Return two matrices of the embedded decoder."""
    cfg = compose("model=llama-tiny task=word_problems data=word_problems")
    base, _ = models.load(cfg.model, 0, cfg.task)
    layer = base.model.layers[1]
    return [layer.self_attn.q_proj.weight.detach(), layer.mlp.down_proj.weight.detach()]


# ---- the quantizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_table_is_normal_float(bits: int) -> None:
    values = table(bits)
    assert len(values) == 2**bits
    assert (values[1:] > values[:-1]).all()
    assert (values[0], values[2 ** (bits - 1) - 1], values[-1]) == (-1, 0, 1)
    if bits == 4:
        assert torch.allclose(values, get_4bit_type("nf4", device="cpu"), atol=2e-7, rtol=0)


@settings(max_examples=40, deadline=None)
@given(width=WIDTHS, out=st.integers(1, 40), into=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_value_of_q_is_a_code_times_its_scale(width, out, into, seed) -> None:
    w = drawn(seed, out, into)
    found = quantize(w, width)
    scales = found.scales().repeat_interleave(width.block)[: w.numel()].reshape(w.shape)
    q = found.dequantized()
    assert torch.equal(q, table(width.bits)[found.codes.long()].reshape(w.shape) * scales)
    # The nearest one: no other code of the block is nearer, but for rounding.
    others = table(width.bits)[:, None, None] * scales
    gap = (others - w).abs().amin(0)
    assert ((q - w).abs() <= gap + 1e-6 * w.abs().max()).all()


@settings(max_examples=40, deadline=None)
@given(width=WIDTHS, out=st.integers(1, 40), into=st.integers(1, 40))
def test_the_formula_of_storage_counts_the_bytes_of_the_packed_arrays(width, out, into) -> None:
    packed = quantize(drawn(0, out, into), width).packed()
    assert sum(map(len, packed.values())) == width.nbytes(out * into)
    whole = width.block * width.group * 8  # of which nothing is left over
    assert width.nbytes(whole) == width.bits_per_weight * whole / 8 + 4


def test_the_published_example_of_storage() -> None:
    assert NF4.bits_per_weight == pytest.approx(4.127, abs=5e-4)


def test_packed_bytes_hold_the_codes() -> None:
    found = quantize(drawn(1, 7, 9), Width(3, 5, "float32", 16, 4))
    packed = found.packed()
    for name, codes, bits in (("codes", found.codes, 3), ("levels", found.levels, 5)):
        planes = np.unpackbits(np.frombuffer(packed[name], np.uint8))[: codes.numel() * bits]
        values = planes.reshape(-1, bits) @ (1 << np.arange(bits)[::-1])
        assert values.tolist() == codes.tolist()


def test_zeros_stay_zeros() -> None:
    assert not quantize(torch.zeros(5, 40), NF4).dequantized().any()


# ---- the alternation -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_error_falls_and_is_below_that_of_plain_quantization(matrices, bits: int) -> None:
    for w in matrices:
        width = NF4._replace(bits=bits)
        found = decompose(w, 8, width)
        assert len(found.errors) > 1
        assert all(b < a for a, b in itertools.pairwise(found.errors))
        gap = w - found.quantized.dequantized() - found.left @ found.right
        assert found.errors[-1] == pytest.approx(float(gap.norm()), rel=1e-5)
        assert found.errors[-1] < (w - quantize(w, width).dequantized()).norm()


@pytest.mark.parametrize("bits", [2, 4])
def test_rank_zero_is_plain_quantization(bits: int) -> None:
    w, width = drawn(2, 24, 40), NF4._replace(bits=bits)
    found = decompose(w, 0, width)
    assert found.quantized.digest() == quantize(w, width).digest()
    assert found.left.shape == (24, 0)
    assert found.right.shape == (0, 40)


def test_full_rank_leaves_nothing() -> None:
    """The other end: with all ranks L1 L2 is W - Q, up to float32."""
    w = drawn(3, 12, 30)
    assert decompose(w, 12, NF4).errors[-1] < 1e-5 * w.norm()


def test_more_bits_come_nearer_to_w(matrices) -> None:
    """The specification's identity Q is the limit; eight bits are the most there are."""
    w = matrices[0]
    errors = [decompose(w, 4, NF4._replace(bits=b), iterations=5).errors[-1] for b in range(2, 9)]
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.01 * w.norm()


@pytest.mark.parametrize("r", [0, 3])
def test_with_a_quantizer_that_loses_nothing_q_and_l1_l2_are_w(monkeypatch, r: int) -> None:
    """The identity Q of the specification, in the place of `quantize`."""

    class Same(NamedTuple):
        w: torch.Tensor

        def dequantized(self) -> torch.Tensor:
            return self.w

    monkeypatch.setattr(decompose.__module__ + ".quantize", lambda w, width: Same(w))
    w = drawn(10, 12, 20)
    found = decompose(w, r, NF4)
    again = found.quantized.dequantized() + found.left @ found.right
    assert torch.allclose(
        again, w, rtol=0, atol=4 * torch.finfo(w.dtype).eps * float(w.abs().max())
    )
    assert found.errors[-1] < 1e-5
    assert found.right.any() == (r > 0)


@pytest.mark.parametrize("value", [0.0, 1.0, 3e-8])
def test_a_fisher_matrix_of_one_value_changes_nothing(value: float) -> None:
    w = drawn(4, 20, 32)
    plain = decompose(w, 3, NF4)
    flat = Fisher(torch.full((20,), value), torch.full((32,), value))
    found = decompose(w, 3, NF4, flat)
    scale = max(value, 1e-30) ** 0.5 if value else 1.0
    assert found.errors[-1] == pytest.approx(scale * plain.errors[-1], rel=1e-3)
    assert torch.allclose(found.left @ found.right, plain.left @ plain.right, atol=2e-3)


def test_weights_that_matter_come_out_better() -> None:
    w = drawn(5, 32, 64)
    rows = torch.ones(32)
    rows[:4] = 1e4
    columns = torch.full((64,), float(rows.mean()))
    plain, found = (
        w - x.quantized.dequantized() - x.left @ x.right
        for x in (decompose(w, 4, NF4), decompose(w, 4, NF4, Fisher(rows, columns)))
    )
    assert found[:4].norm() < 0.1 * plain[:4].norm()


def test_the_weights_are_the_square_root_of_a_fisher_matrix_of_rank_one() -> None:
    f = torch.outer(drawn(6, 9).abs() + 0.1, drawn(7, 11).abs() + 0.1)
    d1, d2 = Fisher(f.mean(1), f.mean(0)).weights()
    assert torch.allclose(torch.outer(d1, d2), f.sqrt(), rtol=1e-4)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(8)
    expected = torch.rand(1)
    torch.manual_seed(8)
    decompose(drawn(9, 16, 16), 2, NF4, iterations=2)
    assert torch.equal(torch.rand(1), expected)


# ---- the integer program -------------------------------------------------------------------------

PROBLEMS = st.integers(1, 5).flatmap(
    lambda widths: st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), min_size=widths,
                 max_size=widths),
        min_size=1, max_size=4,
    )
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(problem=PROBLEMS, budget=st.integers(1, 130))
def test_the_choice_is_the_best_within_the_budget(problem, budget: int) -> None:
    costs, nbytes = np.moveaxis(np.array(problem), -1, 0)
    rows = range(len(costs))
    fits = [
        sum(costs[i, k] for i, k in zip(rows, ks, strict=True))
        for ks in itertools.product(range(costs.shape[1]), repeat=len(costs))
        if sum(nbytes[i, k] for i, k in zip(rows, ks, strict=True)) <= budget
    ]
    if not fits:
        with pytest.raises(ValueError, match="at least"):
            choose(costs.astype(float), nbytes, budget)
        return
    found = choose(costs.astype(float), nbytes, budget)
    assert sum(nbytes[i, k] for i, k in zip(rows, found, strict=True)) <= budget
    assert sum(costs[i, k] for i, k in zip(rows, found, strict=True)) == min(fits)


def test_a_larger_budget_never_costs_more(matrices) -> None:
    """Of real matrices: each budget's best choice is one that a larger budget has too."""
    widths = [NF4._replace(bits=b, block=n) for b in (2, 3, 4) for n in (16, 64)]
    costs = np.array([
        [decompose(w, 4, width, iterations=2).errors[-1] ** 2 for width in widths]
        for w in matrices
    ])  # fmt: skip
    nbytes = np.array([[width.nbytes(w.numel()) for width in widths] for w in matrices])
    count = sum(w.numel() for w in matrices)
    totals = []
    for bits in (2.2, 2.5, 3.0, 3.5, 4.0, 4.7):
        found = choose(costs, nbytes, bits * count / 8)
        assert nbytes[range(len(found)), found].sum() <= bits * count / 8
        totals.append(costs[range(len(found)), found].sum())
    assert all(b <= a for a, b in itertools.pairwise(totals))
    assert totals[-1] < totals[0]


# ---- the adapter ---------------------------------------------------------------------------------


def built(more: str = ""):
    cfg = compose(f"{RUN} {more}")
    base, _ = models.load_vt5(cfg.model, 0)
    weights = {name: x.detach().clone() for name, x in base.state_dict().items()}
    return adapter.attach(base, cfg.adapter, 0), weights, cfg


@pytest.mark.parametrize("alpha", [4, 16])
def test_it_starts_as_q_and_l1_l2_and_keeps_the_budget(alpha: int) -> None:
    model, weights, cfg = built(f"adapter.alpha={alpha}")
    packed = count = 0
    used = set()
    for name, layer in adapter.layers(model).items():
        q = layer.get_base_layer().weight
        w = weights[f"{name.removeprefix('base_model.model.')}.weight"]
        start = layer.scaling["default"] * layer.lora_B["default"].weight @ (
            layer.lora_A["default"].weight
        )  # fmt: skip
        assert float((w - q - start).detach().norm()) == pytest.approx(layer.stored.gap, rel=1e-3)
        assert layer.stored.norm == pytest.approx(float(w.norm()))
        x = drawn(0, 2, layer.in_features)
        assert torch.allclose(layer(x), x @ (q + start).T, atol=1e-4)
        packed, count = packed + layer.stored.nbytes, count + w.numel()
        used.add(layer.stored.width)
    assert 8 * packed / count <= cfg.adapter.budget
    assert len(used) > 1
    assert f"{8 * packed / count:.3f} bits a weight" in adapter.summary(model)
    touched = {name.removeprefix("base_model.model.") for name in adapter.layers(model)}
    for name, w in weights.items():  # what has no factors is as it was
        module = name.removesuffix(".weight")
        if module not in touched:
            assert torch.equal(model.get_base_model().state_dict()[name], w)


def test_every_machine_holds_the_same_q_and_says_so() -> None:
    one, _, _ = built("adapter.grid.bits=[3] adapter.grid.blocks=[64]")
    same, _, _ = built("adapter.grid.bits=[3] adapter.grid.blocks=[64]")
    other, _, _ = built("adapter.grid.bits=[2] adapter.grid.blocks=[64] adapter.budget=2.5")
    assert adapter.fixed(one) == adapter.fixed(same) != adapter.fixed(other)
    assert digest(adapter.get(one)) == digest(adapter.get(same))
    with torch.no_grad():
        next(iter(adapter.layers(other).values())).lora_A["default"].weight += 1
    before = adapter.fixed(other)
    assert adapter.fixed(other) == before  # it is of Q alone


def test_a_turn_changes_the_factors_alone() -> None:
    here = open_session(f"{RUN} adapter.grid.bits=[3] adapter.grid.blocks=[64]")
    held = {
        name: layer.get_base_layer().weight.clone()
        for name, layer in adapter.layers(here.model).items()
    }
    rows = [here.data["train"][k] for k in range(2)]
    train(here.model, rows, here.task, here.cfg.optimizer, epochs=1, batch_size=2, seed=0)
    tree = here.adapter.get(here.model)
    assert all(not np.array_equal(x, here.theta0[n]) for n, x in tree.items())
    for name, layer in adapter.layers(here.model).items():
        assert torch.equal(layer.get_base_layer().weight, held[name])


def test_the_importance_of_public_rows_is_agreed_and_used() -> None:
    words = f"{RUN} adapter.fisher=public adapter.fisher_samples=3 adapter.grid.bits=[2] "
    here = open_session(f"{words} adapter.grid.blocks=[64] adapter.budget=2.5")
    start = here.manifest
    found = Importance(here.cfg).from_public(here.model, here.data, here.task.training)
    names = [*adapter.patch_like(here.model, 1)]
    assert [*found] == names
    for name in adapter.layers(here.model):
        rows, columns = found[f"{name}.rows"], found[f"{name}.columns"]
        assert rows.mean() == pytest.approx(columns.mean(), rel=1e-4)  # both the mean of F
        assert (rows >= 0).all()
    assert not any(hasattr(layer, "stored") for layer in adapter.layers(here.model).values())
    here.derive()
    assert here.manifest != start
    weighted = [layer.stored for layer in adapter.layers(here.model).values()]
    plain = built("adapter.grid.bits=[2] adapter.grid.blocks=[64] adapter.budget=2.5")[0]
    assert {one.digest for one in weighted}.isdisjoint(
        layer.stored.digest for layer in adapter.layers(plain).values()
    )
    with pytest.raises(ValueError, match="not that of this model"):
        adapter.patch(here.model, {names[0]: found[names[0]]}, here.cfg.adapter)


def test_an_export_stands_on_its_own_and_merges(tmp_path: Path) -> None:
    model, _, _ = built("adapter.grid.bits=[3] adapter.grid.blocks=[64]")
    rng = np.random.default_rng(0)
    adapter.set(model, {
        name: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)
        for name, x in adapter.get(model).items()
    })  # fmt: skip
    adapter.export(model, tmp_path)
    said = json.loads((tmp_path / "lq_lora.json").read_text())
    assert {one["bits"] for one in said.values()} == {3}
    assert [*said] == sorted(adapter.layers(model))
    base = type(model.get_base_model()).from_pretrained(tmp_path / BASE)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    x = {
        "input_ids": torch.tensor([[5, 6, 7]]), "bbox": torch.zeros(1, 3, 4, dtype=torch.long),
        "labels": torch.tensor([[8, 9]]),
    }  # fmt: skip
    with torch.inference_mode():
        expected = model.eval()(**x).logits
        assert apart(loaded(**x).logits, expected) < through(model)
        merged = loaded.merge_and_unload()
        assert apart(merged(**x).logits, expected) < through(model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.quantization=4bit", "model.quantization=none"),
        ("output.base=reference", "output.base=copy"),
        ("adapter.budget=2.12", "should be at least 2.126, what the smallest of adapter.grid"),
        ("adapter.grid.bits=[4] adapter.budget=4.1", "should be at least 4.126"),
        ("adapter.grid.scale_types=[float16,float16]", "each once"),
        ("adapter.budget=0", "greater than 0"),
        ("adapter.grid.bits=[1]", "from 2 to 8"),
        ("adapter.grid.bits=[]", "not empty"),
        ("adapter.grid.bits=[2,3,3]", "each once"),
        ("adapter.grid.scale_types=[int8]", "bfloat16"),
        ("adapter.fisher=private", "public"),
        ("strategy=flora", "adapter=lora"),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(words: str, message: str) -> None:
    family = "" if "quantization" not in words else (
        "model=llama-tiny task=word_problems data=word_problems"
    )  # fmt: skip
    cfg = compose(f"adapter=lq_lora output.base=copy {family} {words}")
    with pytest.raises(ConfigError, match=message):
        _check(cfg)


def _check(cfg) -> None:
    check_node(cfg)
    check_strategy(cfg)


def test_a_budget_that_no_width_meets_names_what_is_needed() -> None:
    with pytest.raises(ValueError, match="at least, the budget is"):  # there is no program of one
        built("adapter.grid.bits=[4] adapter.grid.blocks=[64] adapter.budget=4.1")
    with pytest.raises(ValueError, match=r"adapter.r=999 is more than the rank of .*q, \["):
        built("adapter.r=999")
    with pytest.raises(ValueError, match="at least, the budget is"):
        built("adapter.budget=2.05")
