"""Adapters x laws: start, round trip, what trains, export."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fl_app import models
from fl_app.adapters import ADAPTERS
from fl_app.config import compose
from fl_app.data import load
from fl_app.files import installed
from fl_app.models.vt5 import VT5ForConditionalGeneration
from fl_app.tasks.documents import Collator
from fl_app.tree import digest
from tests import small
from tests.rounding import apart, through

ROWS = 2


@pytest.fixture(scope="module")
def cfg():
    return compose(small.DATA)


@pytest.fixture(scope="module")
def batch(cfg):
    base, tokenizer = models.load_vt5(cfg.model, 0)
    rows = load(cfg.data, 0)["train"].to_list()[:ROWS]
    return Collator(tokenizer, base.config, cfg.model.max_length).training(rows)


def build(name: str, seed: int = 0):
    more = {
        "lq_lora": "adapter.iterations=1 adapter.search_iterations=1",
        "quecc": "model=vt5-tiny-visual +model.config.quecc={stride:2}",
    }
    cfg = compose(f"adapter={name} {more.get(name, '')}")
    base, _ = models.load_vt5(cfg.model, seed)
    return ADAPTERS[name].attach(base, cfg.adapter, seed), cfg


def logits(model, batch):
    model.eval()
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_get_and_set_are_inverse(name: str) -> None:
    adapter = ADAPTERS[name]
    model, _ = build(name)
    rng = np.random.default_rng(0)
    tree = {
        k: rng.standard_normal(v.shape).astype(np.float32) for k, v in adapter.get(model).items()
    }
    adapter.set(model, tree)
    got = adapter.get(model)
    assert list(got) == list(tree)
    assert all(np.array_equal(got[k], tree[k]) for k in tree)
    assert all(v.dtype == np.float32 and v.flags.c_contiguous for v in got.values())


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_get_copies(name: str) -> None:
    adapter = ADAPTERS[name]
    model, _ = build(name)
    before = adapter.get(model)
    kept = digest(before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert digest(before) == kept


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_theta0_is_the_seeds_and_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(123)
    first = digest(ADAPTERS[name].get(build(name, seed=5)[0]))
    drawn = torch.rand(1).item()
    torch.manual_seed(123)
    assert drawn == torch.rand(1).item()
    assert digest(ADAPTERS[name].get(build(name, seed=5)[0])) == first


def test_lora_of_another_seed_starts_elsewhere() -> None:
    assert digest(ADAPTERS["lora"].get(build("lora", 1)[0])) != digest(
        ADAPTERS["lora"].get(build("lora", 2)[0])
    )


def test_lora_starts_as_the_base_model_exactly(cfg, batch) -> None:
    base, _ = models.load_vt5(cfg.model, 0)
    assert torch.equal(logits(build("lora")[0], batch), logits(base, batch))


def test_only_the_trees_tensors_train(batch) -> None:
    model, _ = build("lora")
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = ADAPTERS["lora"].get(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    after = ADAPTERS["lora"].get(model)
    assert sum(not np.array_equal(before[k], after[k]) for k in before) > len(before) // 2


def test_lora_counts_r_times_in_plus_out() -> None:
    model, cfg = build("lora")
    base, _ = models.load_vt5(cfg.model, 0)
    expected = sum(
        cfg.adapter.r * (m.in_features + m.out_features)
        for n, m in base.named_modules()
        if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    assert sum(v.size for v in ADAPTERS["lora"].get(model).values()) == expected


def test_lora_export_loads_with_peft(tmp_path: Path, batch) -> None:
    model, cfg = build("lora")
    adapter = ADAPTERS["lora"]
    rng = np.random.default_rng(0)
    adapter.set(
        model, {k: (0.1 * rng.standard_normal(v.shape)).astype(np.float32)
                for k, v in adapter.get(model).items()}
    )  # fmt: skip
    adapter.export(model, tmp_path)
    base, _ = models.load_vt5(cfg.model, 0)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    for name, values in adapter.get(model).items():
        assert np.array_equal(loaded.get_parameter(name).detach(), values)
    assert apart(logits(loaded, batch), logits(model, batch)) < through(model)
    merged = loaded.merge_and_unload()
    assert apart(logits(merged, batch), logits(model, batch)) < through(model)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_weights_are_their_owners_alone(name: str, tmp_path: Path) -> None:
    model, _ = build(name)
    before = os.umask(0o022)
    try:
        ADAPTERS[name].export(model, tmp_path / "adapter")
    finally:
        os.umask(before)
    weights = [*(tmp_path / "adapter").glob("*.safetensors")]
    assert {path.stat().st_mode & 0o777 for path in weights} == {0o600}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_export_says_nothing_of_this_machine(name: str, tmp_path: Path) -> None:
    model, _ = build(name)
    ADAPTERS[name].export(model, tmp_path)
    here = str(installed("fl_app")).encode()
    assert not [path for path in tmp_path.rglob("*.*") if here in path.read_bytes()]
    assert not list(tmp_path.glob("*.md"))


def test_an_export_keeps_the_hub_id_of_its_base(tmp_path: Path) -> None:
    model, _ = build("lora")
    model.peft_config["default"].base_model_name_or_path = "google-t5/t5-base"
    ADAPTERS["lora"].export(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "google-t5/t5-base"


def test_an_export_is_the_same_in_every_process(tmp_path: Path) -> None:
    """PEFT keeps the names of modules in a set, whose order is that of their hashes."""
    model, _ = build("lora")
    model.peft_config["default"].target_modules = names = {f"m{k:02}" for k in range(30)}
    ADAPTERS["lora"].export(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(names)


def test_full_export_loads_with_from_pretrained(tmp_path: Path, batch) -> None:
    model, _ = build("full")
    ADAPTERS["full"].export(model, tmp_path)
    loaded = VT5ForConditionalGeneration.from_pretrained(tmp_path)
    assert digest(ADAPTERS["full"].get(loaded)) == digest(ADAPTERS["full"].get(model))
    assert apart(logits(loaded, batch), logits(model, batch)) < through(model)


def test_full_sends_tied_tensors_once() -> None:
    model, _ = build("full")
    sent = sum(v.size for v in ADAPTERS["full"].get(model).values())
    storages = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters()}
    assert sent == sum(storages.values())


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("spoil", ["missing", "extra", "shape"])
def test_a_tree_of_another_model_is_refused(name: str, spoil: str) -> None:
    adapter = ADAPTERS[name]
    model, _ = build(name)
    tree = adapter.get(model)
    first = next(iter(tree))
    if spoil == "missing":
        tree.pop(first)
    elif spoil == "extra":
        tree["other"] = np.zeros(3, np.float32)
    else:
        tree[first] = np.zeros((*tree[first].shape, 1), np.float32)
    with pytest.raises(ValueError, match=r"names differ|shape"):
        adapter.set(model, tree)


def test_unknown_target_modules_are_an_error() -> None:
    cfg = compose("adapter.target_modules=[nothing_like_it]")
    base, _ = models.load_vt5(cfg.model, 0)
    with pytest.raises(ValueError, match="nothing_like_it"):
        ADAPTERS["lora"].attach(base, cfg.adapter, 0)


@pytest.mark.parametrize("name", ["lora", "ffa_lora", "lora_sb"])
def test_modules_to_save_that_do_not_exist_are_refused(name: str) -> None:
    cfg = compose(f"adapter={name} adapter.modules_to_save=[spatail]")
    base, _ = models.load_vt5(cfg.model, 0)
    with pytest.raises(ValueError, match=r"adapter\.modules_to_save=spatail: the model has no"):
        ADAPTERS[name].attach(base, cfg.adapter, 0)


def test_frozen_modules_are_not_sent_and_do_not_change(batch) -> None:
    cfg = compose("adapter=full adapter.freeze=[shared,relative_attention_bias]").adapter
    base, _ = models.load_vt5(compose("").model, 0)
    model = ADAPTERS["full"].attach(base, cfg, 0)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert {n.removesuffix(".weight").rpartition(".")[2] for n in frozen} == {
        "shared", "relative_attention_bias",
    }  # fmt: skip
    tree = ADAPTERS["full"].get(model)
    assert {*tree} == {n for n, _ in model.named_parameters()} - {*frozen}
    model(**batch).loss.backward()
    assert all(model.get_parameter(name).grad is None for name in frozen)
    ADAPTERS["full"].set(model, {name: values + 1 for name, values in tree.items()})
    assert all(torch.equal(model.get_parameter(n), values) for n, values in frozen.items())


def test_a_name_that_freezes_nothing_is_refused() -> None:
    base, _ = models.load_vt5(compose("").model, 0)
    # Half a name is not one: "ared" is no module, though "shared" ends so.
    cfg = compose("adapter=full adapter.freeze=[ared]").adapter
    with pytest.raises(ValueError, match=r"adapter\.freeze=ared"):
        ADAPTERS["full"].attach(base, cfg, 0)
