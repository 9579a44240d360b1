"""LoRA-SB: the layers with R in PEFT, over full, bf16, 4-bit and 8-bit bases; Fed-SB's laws."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes import nn as bnb
from bitsandbytes.functional import has_avx512bf16
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from fl_app.adapters import lora
from fl_app.adapters.lora_sb import adapter as lora_sb
from fl_app.adapters.lora_sb.factors import Factors, from_tree, install, installed, outer, to_tree
from fl_app.adapters.lora_sb.gradients import decompose
from fl_app.adapters.lora_sb.layers import layers, sandwiched
from fl_app.adapters.quantized import dense_weight, full_precision, is_quantized, keep_trainable
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.tree import Tree, digest
from fl_app.wire.frame import HEADER_BYTES, manifest, pack, unpack
from tests import architectures
from tests.rounding import (
    DOUBLES,
    UNIT,
    apart,
    assert_orthonormal,
    assert_within,
    summed,
    through,
)

R = 4


def adapter(**values) -> DictConfig:
    cfg = OmegaConf.create(dict(compose("adapter=lora_sb").adapter))
    return OmegaConf.merge(cfg, {"r": R, "alpha": R} | values)


def attached(name: str = "llama", seed: int = 0, **values) -> PeftModel:
    return lora_sb.attach(
        architectures.model(name), adapter(**architectures.ADAPTERS[name] | values), seed
    )


def random_like(tree: Tree, seed: int = 0, size: float = 0.1) -> Tree:
    rng = np.random.default_rng(seed)
    return {k: (size * rng.standard_normal(v.shape)).astype(np.float32) for k, v in tree.items()}


def randomized(model: PeftModel, seed: int = 0) -> PeftModel:
    lora_sb.set(model, random_like(lora_sb.get(model), seed))
    return model


def logits(model: nn.Module, batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def backward(model: nn.Module, batch) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(**batch).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def rs(model: PeftModel) -> list[str]:
    return [name for name in lora_sb.get(model) if ".lora_R." in name]


# ---- the model with R --------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.MODELS)
def test_the_start_is_the_base_model_with_orthonormal_factors(name: str) -> None:
    model, batch = attached(name), architectures.batch(name)
    assert torch.equal(logits(model, batch), logits(architectures.model(name), batch))
    for b, r, a in installed(model).values():
        assert_orthonormal(b)
        assert_orthonormal(a.T)
        assert not r.any()


@pytest.mark.parametrize("name", architectures.MODELS)
def test_the_forward_pass_is_that_of_w0_plus_s_b_r_a(name: str) -> None:
    model, batch = randomized(attached(name, alpha=2 * R)).double(), architectures.batch(name)
    reference = architectures.model(name).double()
    for path, (b, r, a) in installed(model).items():
        weight = reference.get_submodule(path.removeprefix(lora_sb.PREFIX)).weight
        weight.data += 2 * b @ r @ a
    lora_sb.set(model, {**lora_sb.get(model), **heads_of(reference, model)})
    assert apart(logits(model, batch), logits(reference, batch)) < DOUBLES


def heads_of(reference: nn.Module, model: PeftModel) -> Tree:
    """What the model trains densely, as it is in the reference."""
    dense = [name for name in lora_sb.get(model) if ".modules_to_save." in name]
    return {
        name: reference.get_parameter(
            name.removeprefix(lora_sb.PREFIX).replace("modules_to_save.default.", "")
        )
        .detach()
        .float()
        .numpy()
        for name in dense
    }


@pytest.mark.parametrize("name", architectures.MODELS)
def test_only_r_and_the_head_train(name: str) -> None:
    model, batch = attached(name), architectures.batch(name)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    factors, before = digest(outer(model)), lora_sb.get(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        backward(model, batch)
        optimizer.step()
    after = lora_sb.get(model)
    assert all(torch.equal(model.get_parameter(n), p) for n, p in frozen.items())
    assert digest(outer(model)) == factors
    assert all(not np.array_equal(before[k], after[k]) for k in after)
    head = {n for n in after if ".modules_to_save." in n}
    assert {n for n in after if n not in head} == {*rs(model)}
    assert (name == "bert") == bool(head)
    assert sum(after[n].size for n in rs(model)) == R * R * len(layers(model))


def test_switching_the_adapter_off_and_on_leaves_b_and_a_frozen() -> None:
    model = attached()
    with model.disable_adapter():
        pass
    model.set_adapter("default")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*rs(model)}


@pytest.mark.parametrize("name", architectures.MODELS)
def test_a_saved_adapter_is_loaded_as_it_was(name: str, tmp_path: Path) -> None:
    model, batch = randomized(attached(name, seed=3)), architectures.batch(name)
    model.save_pretrained(tmp_path)
    config = sandwiched(LoraConfig.from_pretrained(tmp_path))
    loaded = PeftModel.from_pretrained(architectures.model(name), tmp_path, config=config)
    assert digest(outer(loaded)) == digest(outer(model))
    for key, values in lora_sb.get(model).items():
        assert np.array_equal(loaded.get_parameter(key).detach(), values)
    assert apart(logits(loaded, batch), logits(model, batch)) < through(model)


@pytest.mark.parametrize("name", architectures.MODELS)
def test_merging_changes_no_answer_and_can_be_undone(name: str) -> None:
    model, batch = randomized(attached(name)), architectures.batch(name)
    expected, base = logits(model, batch), dense_weight(first(model).get_base_layer()).clone()
    update, bound = first(model).get_delta_weight("default").detach(), through(model)
    model.merge_adapter()
    assert apart(logits(model, batch), expected) < bound
    model.unmerge_adapter()
    size = float(base.abs().max() + update.abs().max())
    assert_within(first(model).get_base_layer().weight, base, summed(2, size))
    copied = lora_sb.merged(model)
    assert apart(logits(copied, batch), expected) < bound
    assert not layers(copied)
    safe = model.merge_and_unload(safe_merge=True)
    assert apart(logits(safe, batch), expected) < bound


def first(model: PeftModel):
    return next(iter(layers(model).values()))


@pytest.mark.parametrize("name", architectures.MODELS)
def test_the_export_is_a_plain_lora(name: str, tmp_path: Path) -> None:
    model, batch = randomized(attached(name, alpha=2 * R)), architectures.batch(name)
    lora_sb.export(model, tmp_path)
    loaded = PeftModel.from_pretrained(architectures.model(name), tmp_path)
    assert not layers(loaded)
    assert apart(logits(loaded, batch), logits(model, batch)) < through(model)


STOCK = """
import sys, numpy, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, ids, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.no_grad():
    logits = model(input_ids=torch.from_numpy(numpy.load(ids))).logits
numpy.save(out, logits.numpy())
assert not [name for name in sys.modules if name.startswith("fl_app")]
"""


def test_a_process_without_this_project_loads_the_export(tmp_path: Path) -> None:
    model, batch = randomized(attached("llama")), architectures.batch("llama")
    architectures.model("llama").save_pretrained(tmp_path / "base")
    lora_sb.export(model, tmp_path / "adapter")
    np.save(tmp_path / "ids.npy", batch["input_ids"].numpy())
    paths = [str(tmp_path / part) for part in ("base", "adapter", "ids.npy", "out.npy")]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-I", "-c", STOCK, *paths], cwd=tmp_path, env=env, check=True)
    expected = logits(model, {"input_ids": batch["input_ids"]})
    assert apart(np.load(tmp_path / "out.npy"), expected) < through(model)


# ---- bases in bf16, 4 and 8 bits ---------------------------------------------------------


@pytest.mark.parametrize(("official", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_r_over_a_bf16_base_is_float32_but_for_official_numerics(official, dtype) -> None:
    model = lora_sb.attach(architectures.model("llama").to(torch.bfloat16), adapter(), 0)
    steps = {
        n: architectures.normal(p.out_features, p.in_features) for n, p in layers(model).items()
    }
    install(
        model,
        {n: decompose(s, R, official_numerics=official) for n, s in steps.items()},
        official_numerics=official,
    )
    assert {p.dtype for f in installed(model).values() for p in f} == {dtype}
    gradients = backward(model, architectures.batch("llama"))
    assert {*gradients} == {*rs(model)}
    assert all(gradients[n].any() and gradients[n].dtype == dtype for n in gradients)


@pytest.fixture(scope="module", params=[4, 8])
def bits(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    architectures.model("llama").save_pretrained(path)
    return path


def test_gradients_of_r_survive_an_evaluation(folder: Path, bits: int) -> None:
    """And are those of the same model dequantized, by torch alone."""
    batch = architectures.batch("llama")
    fresh = randomized(lora_sb.attach(architectures.quantized(folder, bits), adapter(), 0))
    expected = backward(fresh, batch)
    evaluated = randomized(lora_sb.attach(architectures.quantized(folder, bits), adapter(), 0))
    logits(evaluated, batch)
    got = backward(evaluated, batch)
    assert {*got} == {*expected} == {*rs(evaluated)}
    assert all(expected[name].any() for name in expected)
    copied = full_precision(fresh)
    reference, bound = backward(copied, batch), 2 * through(copied)  # forth and back
    for name in expected:
        assert apart(got[name], expected[name]) < bound
        assert apart(expected[name], reference[name]) < bound


def test_gradients_of_a_plain_lora_survive_an_evaluation_too(folder: Path, bits: int) -> None:
    batch, cfg = architectures.batch("llama"), compose("").adapter
    model = lora.attach(architectures.quantized(folder, bits), cfg, 0)
    expected = backward(model, batch)
    logits(model, batch)
    got = backward(model, batch)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("n_in", [16, 40, 48, 64, 80, 128])
def test_a_4_bit_weight_of_any_width_is_dequantized_rightly(n_in: int, nested: bool) -> None:
    weight = architectures.normal(64, n_in)
    layer = bnb.Linear4bit(n_in, 64, bias=False, compress_statistics=nested, quant_type="nf4")
    layer.weight = bnb.Params4bit(
        weight.clone(), compress_statistics=nested, quant_type="nf4", module=layer
    )
    layer = layer.to("cpu")
    assert is_quantized(layer)
    assert apart(dense_weight(layer), weight) < 0.11  # NF4's own error is 0.09


@pytest.mark.skipif(not has_avx512bf16(), reason="the fault is one of CPUs with AVX512-BF16")
def test_without_care_an_evaluation_cuts_the_gradients(folder: Path) -> None:
    """The control: what goes through a layer is lost, what goes around it (residual) is left."""
    model = randomized(lora_sb.attach(architectures.quantized(folder, 4), adapter(), 0))
    expected = backward(model, architectures.batch("llama"))
    for layer in layers(model).values():
        layer.get_base_layer().support_avx512bf16_for_cpu = True
    logits(model, architectures.batch("llama"))
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        gradients = backward(model, architectures.batch("llama"))
    name = rs(model)[0]
    assert torch.linalg.norm(gradients[name] - expected[name]) > 0.1 * expected[name].norm()
    with pytest.raises(ValueError, match="freshly loaded"):
        keep_trainable(model)


def test_a_quantized_base_is_dequantized_to_what_it_computes(
    folder: Path, bits: int, tmp_path: Path
) -> None:
    batch = architectures.batch("llama")
    model = randomized(lora_sb.attach(architectures.quantized(folder, bits), adapter(), 0))
    before = {name: layer.get_base_layer() for name, layer in layers(model).items()}
    copied = full_precision(model)
    assert not is_quantized(copied)
    assert all(model.get_submodule(name).get_base_layer() is before[name] for name in before)
    # In evaluation the 8-bit product quantizes its input too; in training it does not.
    model.train(), copied.train()
    with torch.no_grad():
        got, expected = (m(**batch).logits for m in (copied, model))
    assert apart(got, expected) < through(copied)
    merged = lora_sb.merged(model)
    assert not is_quantized(merged)
    assert not layers(merged)
    assert getattr(merged.config, "quantization_config", None) is None
    assert apart(logits(merged, batch), logits(copied, batch)) < through(copied)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert {*loaded} == {*merged.state_dict()}
    assert all(torch.equal(loaded[key], value) for key, value in merged.state_dict().items())


def test_a_small_update_survives_the_merge_of_a_quantized_base(folder: Path, bits: int) -> None:
    model = lora_sb.attach(architectures.quantized(folder, bits), adapter(), 0)
    lora_sb.set(model, random_like(lora_sb.get(model), size=1e-4))
    name, layer = next(iter(layers(model).items()))
    base = dense_weight(layer.get_base_layer())
    update = layer.get_delta_weight("default").detach()
    weight = lora_sb.merged(model).get_submodule(name.removeprefix(lora_sb.PREFIX)).weight
    assert update.any()
    # What is left of the update in W0 + update, which is rounded once, less W0.
    assert_within(
        weight.detach() - base,
        update,
        summed(2 * R, float(update.abs().max())) + UNIT * weight.abs(),
    )
    assert apart(weight.detach() - base, update) < 1e-2
    with pytest.raises(ValueError, match="full-precision copy"):
        model.merge_adapter()


def test_an_adapter_over_a_quantized_base_is_saved_and_exported(
    folder: Path, bits: int, tmp_path: Path
) -> None:
    batch = architectures.batch("llama")
    model = randomized(lora_sb.attach(architectures.quantized(folder, bits), adapter(), 0))
    model.save_pretrained(tmp_path / "own")
    config = sandwiched(LoraConfig.from_pretrained(tmp_path / "own"))
    base = architectures.quantized(folder, bits)
    keep_trainable(base)
    own = PeftModel.from_pretrained(base, tmp_path / "own", config=config)
    assert digest(outer(own)) == digest(outer(model))
    for key, values in lora_sb.get(model).items():
        assert np.array_equal(own.get_parameter(key).detach(), values)
    bound = through(full_precision(model))
    assert apart(logits(own, batch), logits(model, batch)) < bound
    lora_sb.export(model, tmp_path / "plain")
    base = architectures.quantized(folder, bits)
    keep_trainable(base)
    plain = PeftModel.from_pretrained(base, tmp_path / "plain")
    assert apart(logits(plain, batch), logits(model, batch)) < bound


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the fault is one of AVX512"
)
def test_a_4_bit_layer_that_is_multiplied_wrongly_is_refused(tmp_path: Path) -> None:
    architectures.model("llama", hidden_size=48, num_attention_heads=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"multiple of the block of 64.*in 8 bits"):
        lora_sb.attach(architectures.quantized(tmp_path, 4), adapter(), 0)


# ---- Fed-SB's invariants -----------------------------------------------------------------


SIDES = st.integers(2, 24)
SEEDS = st.integers(0, 2**31 - 1)


def sandwich(out: int, n_in: int, r: int, seed: int, s: float = 1.0):
    """A network of one linear layer with B, R, A of a random step, and the step."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(n_in, out, bias=False)

        def forward(self, x):
            return self.only(x)

    config = LoraConfig(r=r, lora_alpha=s * r, target_modules=["only"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(Net(), sandwiched(config))
        step = torch.randn(out, n_in)
    install(model, dict.fromkeys(layers(model), decompose(step, r)))
    return model, first(model), step


@given(SIDES, SIDES, st.integers(1, 5), SEEDS, st.data())
def test_the_mean_of_r_is_the_mean_of_the_updates(out, n_in, clients, seed, data) -> None:
    """Invariant 1, with any weights; the mean of B and A is another matrix (the control)."""
    r = data.draw(st.integers(1, min(out, n_in)))
    model, layer, _ = sandwich(out, n_in, r, seed)
    model.double()
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(clients))
    trees = [random_like(lora_sb.get(model), seed + k, 1.0) for k in range(clients)]

    def update(tree: Tree) -> np.ndarray:
        lora_sb.set(model, tree)
        return layer.get_delta_weight("default").detach().numpy()

    mean_of_updates = sum(w * update(tree) for w, tree in zip(weights, trees, strict=True))
    mean = {k: sum(w * t[k] for w, t in zip(weights, trees, strict=True)) for k in trees[0]}
    # The mean of R is rounded to float32, and B and A have rows and columns of length 1.
    got = update({k: v.astype(np.float32) for k, v in mean.items()})
    assert_within(
        got, mean_of_updates, summed(1, sum(float(np.abs(v).sum()) for v in mean.values()))
    )


def test_the_mean_of_b_and_a_is_not_the_mean_of_the_updates() -> None:
    """The negative control of invariant 1: FedAvg of a plain LoRA."""
    rng = np.random.default_rng(0)
    bs, as_ = rng.standard_normal((3, 16, R)), rng.standard_normal((3, R, 16))
    exact = np.mean(bs @ as_, axis=0)
    averaged = bs.mean(axis=0) @ as_.mean(axis=0)
    assert np.linalg.norm(averaged - exact) > 0.5 * np.linalg.norm(exact)


@given(SIDES, SIDES, SEEDS, st.sampled_from([0.5, 1.0, 2.0]), st.data())
def test_the_gradient_of_r_is_s_bt_g_at(out, n_in, seed, s, data) -> None:
    """Invariant 3; and at r = min(out, in), one step on R is the full step, projected (5)."""
    r = data.draw(st.integers(1, min(out, n_in)))
    model, layer, step = sandwich(out, n_in, r, seed, s)
    model, step = model.double(), step.double()
    b, _, a = installed(model)["base_model.model.only"]
    x = torch.randn(7, n_in, generator=torch.Generator().manual_seed(seed)).double()
    (model(x) * (x @ step.T)).sum().backward()
    g = (x @ step.T).T @ x  # the gradient of that loss for W0
    gradient = layer.lora_R["default"].weight.grad
    scale = float(g.norm()) + 1.0
    assert_within(gradient / scale, s * b.T @ g @ a.T / scale, 1e-12)
    assert layer.lora_B["default"].weight.grad is None
    assert layer.lora_A["default"].weight.grad is None
    if r == min(out, n_in):
        step_on_r = s * b @ (-0.1 * gradient) @ a
        projected = -0.1 * s * s * (g @ a.T @ a if out <= n_in else b @ b.T @ g)
        assert_within(step_on_r / scale, projected / scale, summed(4 * (out + n_in)))  # B B^T is I


def frame(model: PeftModel, spec: dict) -> bytes:
    """R of all modules in one frame, back and forth."""
    codec, tree = from_spec(spec), random_like(lora_sb.get(model))
    zero = {k: np.zeros_like(v) for k, v in tree.items()}
    sent = pack(codec.encode(tree, codec.init(zero), zero)[0], codec, manifest(zero))
    got = codec.decode(unpack(sent, codec, manifest(zero)), zero)
    assert list(got) == list(tree)
    if spec["id"] == "fp32":
        assert all(np.array_equal(got[k], tree[k]) for k in tree)
    return sent


@pytest.mark.parametrize(("spec", "bits_each"), [({"id": "fp32"}, 32), ({"id": "nf4"}, 4.5)])
def test_a_round_costs_the_same_at_twice_the_width(spec: dict, bits_each: float) -> None:
    """Invariant 4."""
    narrow = lora_sb.attach(architectures.model("llama"), adapter(r=8, alpha=8), 0)
    wide = lora_sb.attach(
        architectures.model("llama", hidden_size=128, intermediate_size=256),
        adapter(r=8, alpha=8),
        0,
    )
    assert first(wide).in_features == 2 * first(narrow).in_features
    sent = frame(narrow, spec)
    assert len(frame(wide, spec)) == len(sent)
    payload = bits_each * 8 * 8 * len(layers(narrow)) / 8
    lengths = from_spec(spec).sections - 1  # of 1 or 2 bytes each
    assert lengths <= len(sent) - payload - HEADER_BYTES <= 2 * lengths


def test_the_embedded_model_sends_one_small_frame() -> None:
    model = attached("vt5", r=8, alpha=8)
    assert len(layers(model)) == 29
    assert len(frame(model, {"id": "fp32"})) == 4 * 64 * 29 + HEADER_BYTES
    assert len(frame(model, {"id": "nf4"})) == 36 * 29 + HEADER_BYTES + 1


# ---- factors in and out ------------------------------------------------------------------


def some_factors(model: PeftModel, seed: int = 0) -> dict[str, Factors]:
    return {
        name: decompose(architectures.normal(layer.out_features, layer.in_features, seed + i), R)
        for i, (name, layer) in enumerate(layers(model).items())
    }


def test_factors_travel_as_a_tree_and_their_digest_tells_two_sides_apart() -> None:
    here, there, elsewhere = attached(seed=1), attached(seed=2), attached(seed=1)
    assert digest(outer(here)) != digest(outer(there))
    assert digest(outer(here)) == digest(outer(elsewhere))
    install(here, some_factors(here))
    tree = to_tree(installed(here))
    assert sum(v.size for v in tree.values()) == sum(
        R * (layer.out_features + layer.in_features + R) for layer in layers(here).values()
    )
    install(there, from_tree(tree))
    assert digest(outer(here)) == digest(outer(there))
    assert digest(lora_sb.get(here)) == digest(lora_sb.get(there))
    batch = architectures.batch("llama")
    assert torch.equal(logits(here, batch), logits(there, batch))
    assert not torch.equal(logits(here, batch), logits(architectures.model("llama"), batch))


def test_installed_factors_train_only_r() -> None:
    model = attached()
    install(model, some_factors(model))
    assert {*backward(model, architectures.batch("llama"))} == {*rs(model)}


def test_factors_of_another_model_are_refused() -> None:
    model = attached()
    factors = some_factors(model)
    with pytest.raises(ValueError, match="names differ"):
        install(model, dict(list(factors.items())[1:]))
    name = next(iter(factors))
    factors[name] = factors[name]._replace(R=torch.eye(R + 1))
    with pytest.raises(ValueError, match="shape"):
        install(model, factors)
    with pytest.raises(ValueError, match="B, R and A"):
        from_tree(outer(model))


def test_a_rank_beyond_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adapter\.r=33.*at most 32.*k_proj"):
        attached(r=33, alpha=33)


def test_modules_that_are_not_linear_are_refused() -> None:
    with pytest.raises(ValueError, match="embed_tokens"):
        attached(target_modules=["embed_tokens", "q_proj"])


@pytest.mark.parametrize(
    "override", ["init=pooled", "init_samples=0", "init_batch_size=0", "eta=0", "alpha=0", "r=0"]
)
def test_a_bad_option_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=f"adapter.{override.partition('=')[0]}"):
        check(compose(f"adapter=lora_sb adapter.{override}"))


def test_the_scale_is_one_unless_asked_for() -> None:
    assert compose("adapter=lora_sb adapter.r=16").adapter.alpha == 16
    assert compose("adapter=lora_sb adapter.r=16 adapter.alpha=8").adapter.alpha == 8
    check(compose("adapter=lora_sb adapter.init=client_mean adapter.official_numerics=true"))
