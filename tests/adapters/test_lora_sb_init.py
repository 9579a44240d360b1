"""LoRA-SB's initialization: gradients, the first step, its rank-r form, the official numerics."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fl_app.adapters.lora_sb import adapter as lora_sb
from fl_app.adapters.lora_sb.factors import install, outer
from fl_app.adapters.lora_sb.gradients import (
    batches,
    decompose,
    factors,
    first_adamw_step,
    gradients,
    mean_factors,
    signs,
)
from fl_app.adapters.lora_sb.layers import layers
from fl_app.adapters.quantized import full_precision
from fl_app.codecs import from_spec
from fl_app.config import compose
from fl_app.tree import digest
from fl_app.wire.frame import HEADER_BYTES, manifest, pack, unpack
from tests import architectures
from tests.rounding import DOUBLES, apart, assert_orthonormal, assert_within, summed, through

R = 4
SIDES = st.integers(2, 40)
SEEDS = st.integers(0, 2**31 - 1)


def adapter(**values) -> DictConfig:
    cfg = OmegaConf.create(dict(compose("adapter=lora_sb").adapter))
    return OmegaConf.merge(cfg, {"r": R, "alpha": R} | values)


def attached(name: str = "llama", **values):
    return lora_sb.attach(
        architectures.model(name), adapter(**architectures.ADAPTERS[name] | values), 0
    )


def some_batches(name: str, count: int = 2) -> list[dict[str, torch.Tensor]]:
    return [architectures.batch(name, rows=3 - i, seed=i) for i in range(count)]


def inner(path: str) -> str:
    return path.removeprefix(lora_sb.PREFIX)


# ---- G -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.MODELS)
def test_g_is_the_sum_of_the_batches_gradients_per_row(name: str) -> None:
    """Against the base model alone, all its parameters training, without an adapter.

    In float64, but for G itself.
    """
    model, found = attached(name).double(), some_batches(name)
    got = gradients(model, found, seed=7)
    base = architectures.model(name).double()
    base.requires_grad_(True)
    base.train()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for batch in found:
            (base(**batch).loss / len(batch["input_ids"])).backward()
    assert [*got] == [*layers(model)]
    for path, gradient in got.items():
        expected = base.get_submodule(inner(path)).weight.grad
        assert expected.any()
        assert gradient.dtype == torch.float32
        assert apart(gradient, expected) < DOUBLES


def test_a_short_batch_weighs_by_the_inverse_of_its_rows() -> None:
    model, (long, short) = attached().double(), some_batches("llama")
    both = gradients(model, [long, short], seed=0)
    alone = [gradients(model, [batch], seed=0) for batch in (long, short)]
    for path in both:
        assert apart(both[path], alone[0][path] + alone[1][path]) < DOUBLES
    doubled = gradients(model, [{k: v.repeat(2, 1) for k, v in long.items()}], seed=0)
    for path in both:  # the same mean loss over twice the rows
        assert apart(2 * doubled[path], alone[0][path]) < DOUBLES


@given(st.integers(0, 20), st.integers(1, 25), st.integers(1, 7))
def test_batches_are_cut_at_the_sample_budget(rows: int, samples: int, batch_size: int) -> None:
    cut = list(
        batches(
            list(range(rows)),
            lambda part: {"input_ids": torch.tensor(part)},
            samples=samples,
            batch_size=batch_size,
        )
    )
    assert [i for part in cut for i in part["input_ids"].tolist()] == [*range(min(rows, samples))]
    assert all(len(part["input_ids"]) == batch_size for part in cut[:-1])


@pytest.mark.parametrize("name", ["t5", "vt5"])
def test_g_is_the_seeds_and_leaves_everything_as_it_was(name: str) -> None:
    model, found = attached(name), some_batches(name)
    model.encoder.eval()
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    kept = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    first = gradients(model, found, seed=1)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    again = gradients(model, found, seed=1)
    assert all(torch.equal(first[path], again[path]) for path in first)
    if name == "t5":  # it has dropout
        other = gradients(model, found, seed=2)
        assert not any(torch.equal(first[path], other[path]) for path in first)


def test_g_is_taken_at_w0_whatever_r_is() -> None:
    model, found = attached(), some_batches("llama")
    before = gradients(model, found, seed=0)
    install(model, factors(model, found, adapter(eta=1e-2), 0))
    after = gradients(model, found, seed=0)
    assert all(torch.equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("bits", [4, 8])
def test_g_of_a_quantized_base_is_that_of_its_dequantized_weights(tmp_path, bits: int) -> None:
    architectures.model("llama").save_pretrained(tmp_path)
    model = lora_sb.attach(architectures.quantized(tmp_path, bits), adapter(), 0)
    got = gradients(model, some_batches("llama"), seed=0)
    plain = architectures.model("llama")
    dequantized = full_precision(architectures.quantized(tmp_path, bits))
    plain.load_state_dict(dequantized.state_dict())
    expected = gradients(lora_sb.attach(plain, adapter(), 0), some_batches("llama"), seed=0)
    bound = 2 * through(plain)  # forth and back
    full = gradients(attached(), some_batches("llama"), seed=0)
    for path in expected:
        assert got[path].dtype == torch.float32
        assert apart(got[path], expected[path]) < bound < 0.1 * apart(full[path], expected[path])


def test_no_batches_and_a_broken_model_are_refused() -> None:
    model = attached()
    with pytest.raises(ValueError, match="at least one batch"):
        gradients(model, [], seed=0)
    with torch.no_grad():
        next(iter(layers(model).values())).get_base_layer().weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        gradients(model, some_batches("llama"), seed=0)


# ---- the first step and its rank-r form --------------------------------------------------


def test_the_step_is_adamws_first() -> None:
    weight = nn.Parameter(architectures.normal(5, 6).double())
    weight.grad = architectures.normal(5, 6, seed=1).double()
    before = weight.detach().clone()
    torch.optim.AdamW([weight], lr=0.01, weight_decay=0.0, eps=1e-12).step()
    assert_within(weight.detach() - before, first_adamw_step(weight.grad, 0.01), 1e-10)


@given(SIDES, SIDES, SEEDS, st.data())
def test_the_factors_are_orthonormal_and_the_best_of_their_rank(out, n_in, seed, data) -> None:
    """Invariant 2, and Eckart-Young: no rank-r matrix is much closer to the step."""
    r = data.draw(st.integers(1, min(out, n_in)))
    step = first_adamw_step(architectures.normal(out, n_in, seed), 1e-3)
    b, middle, a = decompose(step, r)
    assert b.shape == (out, r)
    assert middle.shape == (r, r)
    assert a.shape == (r, n_in)
    assert {part.dtype for part in (b, middle, a)} == {torch.float32}
    assert_orthonormal(b)
    assert_orthonormal(a.T)
    assert torch.equal(middle, torch.diag(torch.diagonal(middle)))
    b, middle, a, step = (part.double() for part in (b, middle, a, step))
    s = torch.linalg.svdvals(step)
    rounding = summed(4 * (out + n_in), float(s[0]))  # of a decomposition in float32
    assert_within(middle, b.T @ step @ a.T, rounding)
    if r == min(out, n_in) or s[r] < 0.8 * s[r - 1]:  # else r vectors of the subspace are as good
        left = torch.linalg.norm(step - b @ middle @ a)
        assert left <= 1.01 * torch.linalg.norm(s[r:]) + r**0.5 * rounding


def test_factors_do_not_depend_on_the_global_generator_and_leave_it_alone() -> None:
    step = architectures.normal(12, 9)
    torch.manual_seed(1)
    first = decompose(step, 3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(x, y) for x, y in zip(first, decompose(step, 3), strict=True))


def test_no_gradient_at_all_gives_r_zero_between_orthonormal_factors() -> None:
    b, middle, a = decompose(torch.zeros(8, 6), 3)
    assert not middle.any()
    assert_orthonormal(b)
    assert_orthonormal(a.T)


def test_a_rank_beyond_the_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adapter\.r=7"):
        decompose(torch.ones(6, 8), 7)


def official(gradient: torch.Tensor, eta: float, r: int):
    """B, R and A as the specification has them, line by line; gradient: out x in."""
    delta = -1 * eta * torch.sign(gradient)
    x = delta.T
    x_float = x.to(torch.float32)
    torch.manual_seed(42)
    torch.randn(x.size(1), r, dtype=torch.float32)  # drawn and discarded
    u, s, v = torch.svd_lowrank(x_float, q=r, niter=10)
    u, s, v = u.to(torch.bfloat16), s.to(torch.bfloat16), v.to(torch.bfloat16)
    encoder = u.to(delta.dtype)  # in x r
    decoder = v.T.to(delta.dtype)  # r x out
    return decoder.T, torch.diag(s).to(delta.dtype), encoder.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("module", range(7))
def test_official_numerics_are_bit_for_bit_those_of_the_specification(dtype, module) -> None:
    """Invariant 6."""
    out, n_in = [(64, 64), (32, 64), (64, 128), (128, 64), (48, 80), (96, 33), (16, 200)][module]
    gradient = architectures.normal(out, n_in, seed=module).to(dtype)
    eta, r = 7.5e-7, 16
    got = decompose(first_adamw_step(gradient, eta), r, official_numerics=True)
    with torch.random.fork_rng():
        expected = official(gradient, eta, r)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one, other)
    error = (got.B.float().T @ got.B.float() - torch.eye(r)).abs().max()
    assert 1e-5 < error < 5e-3
    plain = decompose(first_adamw_step(gradient, eta).float(), r)
    assert not torch.equal(plain.B, got.B.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_official_numerics_reach_the_model_in_the_bases_type(dtype) -> None:
    cfg = adapter(official_numerics=True)
    model = lora_sb.attach(architectures.model("llama").to(dtype), cfg, 0)
    found = factors(model, some_batches("llama"), cfg, 0)
    install(model, found, official_numerics=True)
    for name, layer in layers(model).items():
        for part, new in zip((layer.lora_B, layer.lora_R, layer.lora_A), found[name], strict=True):
            assert part["default"].weight.dtype == new.dtype == dtype
            assert torch.equal(part["default"].weight, new)


# ---- who gives the gradient --------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.MODELS)
def test_two_sides_with_the_same_batches_hold_the_same_factors(name: str) -> None:
    cfg = adapter(**architectures.ADAPTERS[name])
    here, there = attached(name), lora_sb.attach(architectures.model(name), cfg, 99)
    for side in (here, there):
        install(side, factors(side, some_batches(name), cfg, 0))
    assert digest(outer(here)) == digest(outer(there))
    install(there, factors(there, some_batches(name)[:1], cfg, 0))
    assert digest(outer(here)) != digest(outer(there))


def test_the_start_takes_a_part_of_the_first_step_and_lowers_the_loss() -> None:
    model, batch, cfg = attached(), architectures.batch("llama"), adapter(eta=1e-3)

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return model(**batch).loss.item()

    before = loss()
    install(model, factors(model, [batch], cfg, 0))
    assert loss() < before - 1e-2


def test_signs_travel_in_one_bit_each() -> None:
    model = attached()
    sent = signs(gradients(model, some_batches("llama"), seed=0))
    codec = from_spec({"id": "sign"})
    zero = {k: np.zeros_like(v) for k, v in sent.items()}
    bits = pack(codec.encode(sent, codec.init(zero), zero)[0], codec, manifest(zero))
    values = sum(layer.in_features * layer.out_features for layer in layers(model).values())
    assert len(bits) == values / 8 + 4 * len(sent) + HEADER_BYTES + 1
    got = codec.decode(unpack(bits, codec, manifest(zero)), zero)
    assert all(np.array_equal(got[name], sent[name]) for name in sent)


def test_the_mean_of_one_clients_signs_is_the_first_clients_start() -> None:
    model, found, cfg = attached(), some_batches("llama"), adapter()
    gradient = gradients(model, found, seed=0)
    assert not any((g == 0).any() for g in gradient.values())
    alone, mean = factors(model, found, cfg, 0), mean_factors([signs(gradient)], cfg)
    assert [*alone] == [*mean]
    for name in alone:
        assert all(torch.equal(x, y) for x, y in zip(alone[name], mean[name], strict=True))


@given(st.integers(1, 6), SEEDS)
def test_the_mean_of_signs_is_that_of_the_clients_steps_in_any_order(clients, seed) -> None:
    rng = np.random.default_rng(seed)
    trees = [
        {"m": np.where(rng.standard_normal((10, 8)) < 0, -1, 1).astype(np.float32)}
        for _ in range(clients)
    ]
    cfg = adapter(r=8, eta=0.5)
    (b, r, a), (b_, r_, a_) = (mean_factors(t, cfg)["m"] for t in (trees, trees[::-1]))
    assert torch.equal(b @ r @ a, b_ @ r_ @ a_)
    expected = np.mean([-0.5 * tree["m"] for tree in trees], axis=0)
    assert apart(b @ r @ a, expected) < summed(4 * (10 + 8))


def test_signs_of_other_modules_are_refused() -> None:
    tree = {"m": np.ones((4, 4), np.float32)}
    with pytest.raises(ValueError, match="at least one client"):
        mean_factors([], adapter())
    with pytest.raises(ValueError, match="same modules"):
        mean_factors([tree, {"n": tree["m"]}], adapter())
