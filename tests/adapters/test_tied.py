"""The adapter ``tied``: start, what trains, fixed pieces, export, over several kinds of models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_app.adapters import tied
from fl_app.build import forget_session, open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check_node
from fl_app.runs import merged, trained
from fl_app.tree import Tree
from tests import architectures
from tests.adapters.test_any_model import overrides, turn
from tests.rounding import apart, assert_within, through

KINDS = ("vt5", "t5", "bert", "llama", "opt")
SMALL = "adapter.shared=500 adapter.codes=4"


def attached(kind: str, more: str = "", seed: int = 3):
    cfg = compose(f"adapter=tied {SMALL} {more}").adapter
    return tied.attach(architectures.model(kind), cfg, seed).eval()


def logits(model, batch):
    with torch.inference_mode():
        return model(**batch).logits


def moved(model, size: float = 0.02) -> Tree:
    rng = np.random.default_rng(0)
    tree = tied.get(model)
    return {
        n: (x + size * rng.standard_normal(x.shape)).astype(np.float32) for n, x in tree.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_model_exactly(kind: str) -> None:
    batch = architectures.batch(kind)
    assert torch.equal(logits(attached(kind), batch), logits(architectures.model(kind), batch))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_part_and_nothing_else(kind: str) -> None:
    model = attached(kind)
    model(**architectures.batch(kind)).loss.backward()
    parts = {"tied.codes", "tied.shared", "tied.norms"}
    trained_names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert parts == {n for n in trained_names if n.startswith("tied.")}
    assert {n for n in trained_names - parts if "classifier" not in n} == set()
    for name in parts:
        assert model.get_parameter(name).grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("part", ["codes", "shared", "norms"])
def test_each_part_alone_changes_the_model_and_zero_leaves_it(part: str) -> None:
    batch = architectures.batch("vt5")
    model = attached("vt5")
    start = tied.get(model)
    before = logits(model, batch)
    tied.set(model, {**start, f"tied.{part}": moved(model)[f"tied.{part}"]})
    assert apart(logits(model, batch), before) > 1e-4
    tied.set(model, start)
    assert torch.equal(logits(model, batch), before)


def test_parts_are_by_choice() -> None:
    assert [*tied.get(attached("vt5", "adapter.codes=0"))] == ["tied.shared", "tied.norms"]
    assert [*tied.get(attached("vt5", "adapter.shared=0"))] == ["tied.codes", "tied.norms"]
    assert [*tied.get(attached("vt5", "adapter.norms=false"))] == ["tied.codes", "tied.shared"]
    with pytest.raises(ConfigError, match="LN_TUNING"):
        check_node(compose("adapter=tied adapter.codes=0 adapter.shared=0"))
    with pytest.raises(ConfigError, match=r"adapter\.codes=-1"):
        check_node(compose("adapter=tied adapter.codes=-1"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("adapter.codes=129", r"adapter\.codes=129 should be at most 128"),
        ("adapter.shared=9999999", r"adapter\.shared=9999999 should be at most"),
        ("adapter.target_modules=[shared,q]", r"match shared, the token embedding"),
        ("adapter.target_modules=[nothing_like_it]", "nothing_like_it"),
    ],
)
def test_what_a_model_cannot_have_is_refused(more: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attached("vt5", more)


def test_the_parts_are_what_the_docstring_says() -> None:
    """In float64, on the modules themselves: E + c C V, W0 + alpha/r B A, w (1 + g v)."""
    base = architectures.model("vt5")
    model = attached("vt5")
    tree = moved(model)
    tied.set(model, tree)
    inner = model.get_base_model()
    table = base.shared.weight.double()
    codes = torch.from_numpy(tree["tied.codes"]).double()
    directions = tied.principal(base.shared.weight, 4).double()
    ids = torch.arange(1000)
    assert_within(inner.shared(ids), table + 30 * codes @ directions, 1e-4)

    name = "decoder.block.0.layer.0.SelfAttention.q"
    layer, weight = inner.get_submodule(name), base.get_submodule(name).weight.double()
    a, b = (one["default"].weight.double() for one in (layer.lora_A, layer.lora_B))
    x = architectures.normal(5, weight.shape[1])
    assert_within(layer(x), x.double() @ (weight + 2 * b @ a).T, 1e-4)
    shared = {*np.unique(np.abs(tree["tied.shared"])).tolist()}
    assert {*np.unique(np.abs(b.detach().float().numpy())).tolist()} <= shared  # it started at 0

    first = base.encoder.block[0].layer[0].layer_norm.weight
    v = torch.from_numpy(tree["tied.norms"])[: first.numel()]
    got = inner.encoder.block[0].layer[0].layer_norm.weight
    assert torch.equal(got, first * (1 + 3.0 * v))


@given(st.integers(1, 400), st.data())
def test_the_hash_is_balanced_and_signed(numbers: int, data: st.DataObject) -> None:
    entries = data.draw(st.integers(numbers, 2000))
    seed = data.draw(st.integers(0, 2**63 - 1))
    index, sign = tied.signed_hash(entries, numbers, seed)
    counts = torch.bincount(index, minlength=numbers)
    assert len(counts) == numbers
    assert int(counts.min()) >= entries // numbers
    assert int(counts.max()) <= -(-entries // numbers)
    assert {*sign.tolist()} <= {-1.0, 1.0}
    again, signs = tied.signed_hash(entries, numbers, seed)
    assert torch.equal(index, again)
    assert torch.equal(sign, signs)


def test_directions_are_principal_and_do_not_depend_on_rounding() -> None:
    table = architectures.normal(300, 16) * torch.arange(1, 17)
    found = tied.principal(table, 5)
    assert_within(found @ found.T, np.eye(5), 16 * 2 / tied.GRID)
    centred = table.double() - table.double().mean(0)
    variance = (centred @ found.double().T).square().sum(0)
    best = torch.linalg.svdvals(centred)[:5] ** 2
    assert_within(variance / best, np.ones(5), 1e-3)
    assert bool((found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all())
    # What is computed in another order differs by about 1e-15, and disappears.
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tied.principal(table[order], 5), found)


def test_the_fingerprint_is_of_seed_and_base() -> None:
    prints = {
        tied.fixed(attached("llama")),
        tied.fixed(attached("llama", seed=4)),
        tied.fixed(attached("llama", "adapter.shared=501")),
        tied.fixed(attached("llama", "adapter.code_scale=10.0")),
    }
    assert len(prints) == 4
    assert tied.fixed(attached("llama")) in prints
    cfg = compose(f"adapter=tied {SMALL}").adapter
    other = architectures.model("llama")
    with torch.no_grad():
        other.get_input_embeddings().weight[:, 0] *= 2
    assert tied.fixed(tied.attach(other, cfg, 3)) not in prints


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_live_model_in_peft_and_merged(kind: str, tmp_path: Path) -> None:
    batch = architectures.batch(kind)
    model = attached(kind)
    tied.set(model, moved(model))
    live = logits(model, batch)
    tied.export(model, tmp_path)
    loaded = trained.with_adapter(architectures.model(kind), tmp_path).eval()
    assert torch.equal(logits(loaded, batch), live)
    whole = merged.merged(loaded)
    assert apart(logits(whole, batch), live) < through(whole)
    whole.save_pretrained(tmp_path / "merged")
    again = type(whole).from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(logits(again, batch), logits(whole, batch))


def test_the_output_layer_keeps_its_weight_where_transformers_ties_it() -> None:
    base = architectures.model("gemma2")
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    before = base.get_output_embeddings().weight.detach().clone()
    cfg = compose(f"adapter=tied {SMALL}").adapter
    model = tied.attach(base, cfg, 0)
    tied.set(model, moved(model))
    assert torch.equal(base.get_output_embeddings().weight, before)


def test_what_the_class_freezes_has_no_part() -> None:
    model = architectures.model("llama")
    model.frozen = ("model",)
    cfg = compose(f"adapter=tied {SMALL} adapter.shared=0").adapter
    with pytest.raises(ValueError, match="no normalization"):
        tied.attach(model, cfg, 0)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("causal_lm", "llama"), ("seq2seq", "t5"), ("sequence_classification", "bert")],
)
def test_a_session_of_any_model_trains_it(task: str, kind: str, tmp_path: Path) -> None:
    here = open_session(f"{overrides(tmp_path, task, kind, 'tied')} {SMALL}")
    tree, _ = turn(here)
    assert all(not np.array_equal(tree[name], here.theta0[name]) for name in tree)
    assert (
        here.manifest
        != open_session(f"{overrides(tmp_path, task, kind, 'tied')} {SMALL} seed=1").manifest
    )
    forget_session()
