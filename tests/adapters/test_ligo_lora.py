"""A LoRA grown by LiGO's operator is what the operator makes of the merged smaller model."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fl_app.adapters import lora
from fl_app.adapters.ligo import adapter
from fl_app.adapters.ligo import lora as ligo_lora
from fl_app.adapters.ligo.operator import materialized
from fl_app.build import forget_session, open_session
from fl_app.command import grow
from fl_app.config import compose, plain
from fl_app.runs import base_model, exported, trained
from fl_app.runs.merged import merged
from tests.adapters.test_ligo import KINDS, LARGER, llama, options

RANK = 2
CONFIG = OmegaConf.create({**plain(compose("adapter=lora").adapter), "r": RANK, "alpha": 6})
ROUNDING = 1e-5  # of weights below 10, sums of float32 in another order
WORDS = "data.providers_per_client=1 federation.clients=2 model=llama-tiny data=word_problems"
SMALL = f"{WORDS} task=word_problems experiment=fedavg_lora adapter.r={RANK} adapter.alpha=6"


def moved(tree, scale):
    rng = np.random.default_rng(1)
    return {n: x + scale * rng.standard_normal(x.shape).astype("f4") for n, x in tree.items()}


def with_lora(kind):
    model = lora.attach(kind().eval(), CONFIG, 0)
    lora.set(model, moved(lora.get(model), 0.3))
    return model


def grown(kind, base, trained_operator: bool, **others):
    """Return the larger model of a smaller one, whose operator depends on the sizes alone."""
    large = adapter.attach(base, options(LARGER[kind], **others), 0)
    if trained_operator:
        adapter.set(large, moved(adapter.get(large), 0.1))
    return large


@KINDS
@pytest.mark.parametrize("trained_operator", [False, True], ids=["copied", "trained"])
def test_growing_and_merging_may_change_places(kind, trained_operator: bool) -> None:
    small = with_lora(kind)
    start = {} if trained_operator else {"noise": 0.0}
    base = grown(kind, kind().eval(), trained_operator, **start)
    large = ligo_lora.grown(base.ligo, small, materialized(base))
    # Where a layer comes of one, so does its adapter; otherwise of as many as the base has.
    assert large.peft_config["default"].r == RANK * (2 if trained_operator else 1)
    first = materialized(grown(kind, merged(copy.deepcopy(small)), trained_operator, **start))
    there = merged(large).state_dict()
    assert {*there} == {*first.state_dict()}
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(there[name], weight, rtol=ROUNDING, atol=ROUNDING, msg=name)


def test_a_variant_is_no_plain_lora() -> None:
    config = with_lora(llama).peft_config["default"]
    ligo_lora.check(config)
    for more in ({"use_dora": True}, {"bias": "all"}, {"layers_to_transform": [0]}):
        with pytest.raises(ValueError, match=f"a LoRA with {next(iter(more))}"):
            ligo_lora.check(replace(config, **more))


@pytest.fixture(scope="module")
def exported_lora(tmp_path_factory):
    """Return the folder of a LoRA over the embedded decoder, and its weights over this base."""
    folder = tmp_path_factory.mktemp("small")
    forget_session()
    here = open_session(SMALL)
    here.adapter.set(here.model, moved(here.theta0, 0.1))
    here.adapter.export(here.model, folder)
    base = base_model.described(here.cfg.model)
    exported.Parts(here.cfg, here.tokenizer, here.task, here.generation, base).write(folder)
    forget_session()
    return folder


def test_the_command_grows_an_adapter_with_its_base(exported_lora, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["experiment=ligo", *WORDS.split(), "task=word_problems", "--steps", "0"]
    assert grow.main(["grown", *asked, "--adapter", str(exported_lora)]) == 0
    forget_session()
    place = trained.find(tmp_path / "grown" / "adapter", base=str(tmp_path / "grown"))
    large = merged(trained.load(place).model)
    assert (large.config.num_hidden_layers, large.config.hidden_size) == (6, 192)
    base = trained.load(trained.find(tmp_path / "grown")).model
    changed = [n for n, w in large.state_dict().items() if not torch.equal(w, base.state_dict()[n])]
    assert len(changed) == 6 * 7  # all linear layers
    for part in (tmp_path / "grown", tmp_path / "grown" / "adapter"):
        assert str(tmp_path) not in "".join(one.read_text() for one in part.glob("*.json"))


def test_what_cannot_be_grown_is_refused(exported_lora, tmp_path) -> None:
    cfg = compose(f"{WORDS} task=word_problems experiment=ligo")
    assert grow.lora_of(exported_lora, cfg).folder == exported_lora

    def refused(change, said: str) -> None:
        folder = tmp_path / said.replace(" ", "_")
        folder.mkdir()
        for file in exported_lora.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        change(folder)
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            grow.lora_of(folder, cfg)

    def edit(name: str, **values):
        def change(folder) -> None:
            found = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**found, **values}))

        return change

    other = {"id": None, "revision": None, "sha256": "0" * 64}
    refused(edit("thinwire.json", base=other), "another base")
    refused(edit("adapter_config.json", peft_type="IA3"), "only a LoRA")
    refused(lambda folder: (folder / "adapter_config.json").unlink(), "holds a whole model")
    refused(lambda folder: (folder / "thinwire.json").unlink(), "neither the folder of a run")


def test_the_operator_sees_all_rows_equally_often_and_needs_some() -> None:
    found = grow.drawn(5, 12, seed=0)
    assert {*np.bincount(found)} == {2, 3}
    with pytest.raises(ValueError, match="has no rows to train the operator"):
        grow.drawn(0, 12, seed=0)
