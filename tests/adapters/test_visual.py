"""Laws of the whole VT5: pictures matter, stay frozen, and load; the output layer of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from fl_app import models
from fl_app.adapters import ADAPTERS
from fl_app.config import ConfigError, compose, plain
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.data.padding import IGNORED
from fl_app.models.draws import SeededDraws
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.preflight import check
from fl_app.tasks.documents import Collator, predict
from tests import one_by_one
from tests.rounding import DOUBLES, apart, through

SHAPES = {"vocab_size": 1000, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BEIT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 16, "use_absolute_position_embeddings": True,
}  # fmt: skip
COMPETITION = (
    "adapter=lora adapter.target_modules=[q,v] adapter.modules_to_save=[spatial,visual_matcher]"
)
VISUAL_TOKENS = 1 + (32 // 16) ** 2
RANDOM = {"path": "random", "sha256": None, "tokenizer": "embedded:vt5_tiny", "visual_path": None}


def _random(**config: Any) -> DictConfig:
    fields = {**SHAPES, "decoder_start_token_id": 0, "dropout_rate": 0.0, **config}
    return OmegaConf.create({**RANDOM, "config": fields})


def _whole(**config: Any) -> VT5ForConditionalGeneration:
    fields = {"spatial": "table", "visual": BEIT, "untied_lm_head": True, **config}
    return models.load_vt5(_random(**fields), seed=0)[0]


def _rows(pages: int = 3) -> list[dict[str, Any]]:
    return make_documents(1, POOLS["federated"], range(pages), range(1))


def _batch(model: VT5ForConditionalGeneration, rows: list[dict[str, Any]]) -> dict[str, Any]:
    _, tokenizer = models.load_vt5(compose().model, seed=0)
    return Collator(tokenizer, model.config, 320).training(rows)


def _aliases(model: VT5ForConditionalGeneration) -> set[str]:
    return {*model.state_dict()} - {name for name, _ in model.named_parameters()}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock T5 in the hub's format, with the tokenizer of the embedded model."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(3)
    T5ForConditionalGeneration(T5Config(**SHAPES, decoder_start_token_id=0)).save_pretrained(folder)
    models.load_vt5(compose().model, seed=0)[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pages in the hub's format, as DiT is, with no weight at its start value."""
    folder = tmp_path_factory.mktemp("dit")
    torch.manual_seed(4)
    classifier = BeitForImageClassification(BeitConfig(**BEIT, num_labels=3))
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_()
    classifier.save_pretrained(folder)
    return folder


def _base(t5: Path, dit: Path | None, **config: Any) -> DictConfig:
    cfg = compose(f"model=vt5-base model.path={t5} model.visual_path={dit or 'null'}").model
    return OmegaConf.create({**cfg, "config": {**cfg.config, **config}})


# ---- shapes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size() -> VT5ForConditionalGeneration:
    config = VT5Config(**plain(compose("model=vt5-base-random").model.config))
    with torch.device("meta"):
        return VT5ForConditionalGeneration(config)


def test_every_part_has_the_competitions_size(full_size: VT5ForConditionalGeneration) -> None:
    def scalars(module: torch.nn.Module, without: torch.nn.Module | None = None) -> int:
        left_out = {*without.parameters()} if without else set()
        return sum(p.numel() for p in module.parameters() if p not in left_out)

    shared = full_size.shared
    assert scalars(full_size.encoder, shared) == 84_954_240
    assert scalars(full_size.decoder, shared) == 113_275_008
    assert scalars(shared) == scalars(full_size.lm_head) == 32_128 * 768
    assert scalars(full_size.spatial) == 2_164_992
    assert scalars(full_size.visual_matcher) == 590_592
    assert scalars(full_size.visual_encoder) == 85_806_336
    assert full_size.visual_encoder.embeddings.position_embeddings.shape[1] == 197
    assert _aliases(full_size) == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    trained = sum(p.numel() for p in full_size.parameters() if p.requires_grad)
    assert trained + 2 * scalars(shared) == 299_682_048  # as counted there, aliases and all


def test_the_competitions_lora_has_its_size(full_size: VT5ForConditionalGeneration) -> None:
    cfg = compose(COMPETITION).adapter
    with torch.device("meta"):
        model = ADAPTERS["lora"].attach(full_size, cfg, 0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3_640_320


# ---- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
def test_the_picture_matters_to_its_own_page_alone(prompt: str) -> None:
    model, rows = _whole(prompt=prompt).double(), _rows()
    batch = _batch(model, rows)
    assert batch["pixel_values"].shape == (len(rows), 3, 32, 32)  # one a document
    batch["pixel_values"] = batch["pixel_values"].double()
    owners = torch.arange(len(rows)).repeat_interleave(8)[:, None]
    document = owners.expand_as(batch["labels"])[batch["labels"] != IGNORED]  # of each label
    before = model(**batch)
    pixels = batch["pixel_values"].clone()
    pixels[1] *= -1
    after = model(**batch | {"pixel_values": pixels})
    changes = [apart(*pair) for pair in zip(after.logits, before.logits, strict=True)]
    changed = torch.tensor([change > DOUBLES for change in changes])
    assert torch.equal(changed, document == 1)
    assert before.encoder_last_hidden_state.shape[1] == (
        batch["input_ids"].shape[1] + VISUAL_TOKENS
    )


def test_visual_tokens_follow_the_text_and_padding_follows_them() -> None:
    model = _whole().double()
    batch = _batch(model, _rows())
    batch["pixel_values"] = batch["pixel_values"].double()
    page = {k: batch[k] for k in ("input_ids", "attention_mask", "bbox", "pixel_values", "picture")}
    together = model.encode(**page)
    for i, words in enumerate(page["attention_mask"].sum(1).tolist()):
        document = int(page["picture"][i])
        alone = model.encode(
            page["input_ids"][i : i + 1, :words],
            None,
            page["bbox"][i : i + 1, :words],
            page["pixel_values"][document : document + 1],
        )
        assert alone.shape[1] == words + VISUAL_TOKENS
        assert apart(together[i, : alone.shape[1]], alone[0]) < DOUBLES


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
def test_a_batch_answers_like_one_by_one(prompt: str) -> None:
    cfg = compose(f"model=vt5-tiny-visual +model.config.prompt={prompt}").model
    model, tokenizer = models.load_vt5(cfg, seed=0)
    collator, rows = Collator(tokenizer, model.config, 320), _rows(4)
    rows[1] = rows[1] | {"words": rows[1]["words"][:20], "boxes": rows[1]["boxes"][:20]}
    for row in rows:
        row["questions"], row["answers"] = row["questions"][:4], row["answers"][:4]
    together = predict(model, tokenizer, collator, rows, 8)
    assert together == one_by_one.answers(model, tokenizer, collator, rows, 8)
    assert len(set(together)) > 1


def test_pictures_and_visual_encoder_go_together() -> None:
    whole, blind = _whole(), _whole(visual=None)
    batch = _batch(whole, _rows())
    with pytest.raises(ValueError, match="if and only if"):
        blind(**batch)
    del batch["pixel_values"]
    with pytest.raises(ValueError, match="if and only if"):
        whole(**batch)


# ---- frozen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", ["adapter=full", "adapter=lora", COMPETITION])
def test_training_leaves_the_visual_encoder_alone(overrides: str, tmp_path: Path) -> None:
    cfg, base = compose(overrides).adapter, _whole(visual={**BEIT, "drop_path_rate": 0.5})
    adapter = ADAPTERS[cfg.id]
    model, batch = adapter.attach(base, cfg, 0), _batch(base, _rows())
    frozen = {n: p.detach().clone() for n, p in base.visual_encoder.state_dict().items()}
    theta0 = adapter.get(model)
    assert not any("visual_encoder" in name for name in theta0)
    assert any("visual_matcher" in name for name in theta0)
    model.train()
    assert not any(module.training for module in base.visual_encoder.modules())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    trained = adapter.get(model)
    moved = {name for name in theta0 if not np.array_equal(theta0[name], trained[name])}
    assert any("visual_matcher" in name for name in moved)
    for name, values in base.visual_encoder.state_dict().items():
        assert torch.equal(values, frozen[name])

    adapter.set(model, theta0)
    adapter.set(model, trained)
    adapter.export(model.eval(), tmp_path)
    if cfg.id == "full":
        loaded: Any = VT5ForConditionalGeneration.from_pretrained(tmp_path)
    else:
        start = _whole(visual={**BEIT, "drop_path_rate": 0.5})
        loaded = PeftModel.from_pretrained(start, tmp_path).eval()
    assert apart(loaded(**batch).logits, model(**batch).logits) < through(model)


# ---- the output layer ---------------------------------------------------------------------------


def test_an_untied_output_layer_starts_as_the_tied_one(t5: Path) -> None:
    tied, untied = (
        models.load_vt5(_base(t5, None, untied_lm_head=value), seed=0)[0] for value in (False, True)
    )
    assert tied.lm_head.weight is tied.shared.weight
    assert untied.lm_head.weight is not untied.shared.weight
    batch = _batch(tied, _rows())
    assert torch.equal(untied.lm_head.weight, tied.shared.weight)
    assert apart(untied(**batch).logits, tied(**batch).logits) < through(tied)
    untied(**batch).loss.backward()
    assert untied.lm_head.weight.grad is not None
    assert not torch.equal(untied.lm_head.weight.grad, untied.shared.weight.grad)


@pytest.mark.parametrize("untied", [False, True])
def test_save_and_load_keep_every_weight_and_alias(tmp_path: Path, untied: bool) -> None:
    model = _whole(untied_lm_head=untied)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    model.save_pretrained(tmp_path)
    again = VT5ForConditionalGeneration.from_pretrained(tmp_path)
    names = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    for each in (model, again):
        assert _aliases(each) == (names if untied else {*names, "lm_head.weight"})
        state = each.state_dict(keep_vars=True)
        assert all(state[name] is each.shared.weight for name in _aliases(each))
        assert not any(p.requires_grad for p in each.visual_encoder.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


# ---- loading ------------------------------------------------------------------------------------


def test_folders_of_a_t5_and_a_dit_make_a_vt5(t5: Path, dit: Path) -> None:
    model, _ = models.load_vt5(_base(t5, dit), seed=0)
    state = model.state_dict()
    drawn = {n for n in state if n.split(".")[0] in ("spatial", "visual_matcher", "lm_head")}
    text = T5ForConditionalGeneration.from_pretrained(t5).state_dict()
    visual = BeitForImageClassification.from_pretrained(dit).beit.state_dict()
    pooler = {name for name in visual if name.startswith("pooler")}
    assert pooler
    for name in state.keys() - drawn:
        kept = visual if name.startswith("visual_encoder.") else text
        assert torch.equal(state[name], kept[name.removeprefix("visual_encoder.")]), name
    assert len(state.keys() - drawn) == len(text) - 1 + len(visual) - len(pooler)
    assert torch.equal(state["lm_head.weight"], text["shared.weight"])
    assert all(model.config.visual[key] == value for key, value in BEIT.items())


def test_a_vt5s_own_visual_encoder_needs_no_path(t5: Path, dit: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_vt5(_base(t5, dit), seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = models.load_vt5(_base(tmp_path, None), seed=1)[0]
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_other_checkpoints_are_refused(t5: Path, dit: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.visual_path.*is a t5"):
        models.load_vt5(_base(t5, t5), seed=0)
    with pytest.raises(ValueError, match=r"model\.path.*lacks \d+ weights"):
        models.load_vt5(OmegaConf.create({**_base(dit, None), "tokenizer": str(t5)}), seed=0)
    with pytest.raises(ValueError, match=r"model\.visual_path.*lacks \d+ weights"):
        models.load_vt5(_base(t5, dit, visual={**BEIT, "num_hidden_layers": 3}), seed=0)
    with pytest.raises(ValueError, match=r"model\.visual_path.*other shapes"):
        models.load_vt5(_base(t5, dit, visual={**BEIT, "hidden_size": 32}), seed=0)


def test_random_weights_are_the_seeds_alone() -> None:
    torch.manual_seed(1)
    first = _whole().state_dict()
    state = torch.random.get_rng_state()
    torch.set_num_threads(2)
    second = _whole().state_dict()
    torch.set_num_threads(1)
    assert torch.equal(state, torch.random.get_rng_state())
    other = models.load_vt5(_random(spatial="table", visual=BEIT, untied_lm_head=True), 1)[0]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["shared.weight"], other.shared.weight)
    assert not any("meta" in str(value.device) or value.isnan().any() for value in first.values())


def test_random_weights_have_t5s_deviations() -> None:
    model = _whole(d_model=256, num_heads=8, d_kv=32)
    deviations = {
        "shared.weight": 1.0,
        "spatial.x.weight": 1.0,
        "spatial.matcher.weight": 256**-0.5,
        "visual_matcher.weight": 24**-0.5,
        "encoder.block.1.layer.0.SelfAttention.q.weight": (256 * 32) ** -0.5,
        "decoder.block.0.layer.1.EncDecAttention.o.weight": 256**-0.5,
        "decoder.block.1.layer.2.DenseReluDense.wo.weight": 32**-0.5,
        "visual_encoder.layers.0.mlp.fc1.weight": 0.02,
    }
    for name, deviation in deviations.items():
        values = model.get_parameter(name)
        assert values.std().item() == pytest.approx(deviation, rel=0.1), name
        assert abs(values.mean().item()) < 0.2 * deviation, name


def test_draws_are_these_bits_on_every_machine() -> None:
    with SeededDraws(0):
        drawn = torch.nn.init.normal_(torch.empty(5), mean=0.5, std=2.0)
    rng = np.random.Generator(np.random.PCG64(0))
    bits = rng.integers(0, 2**32, size=5, dtype=np.uint32) >> np.uint32(8)  # 24 bits each
    uniform = bits.astype(np.float64) / 2**24 - 0.5
    expected = (uniform * np.float32(12**0.5 * 2)).astype(np.float32) + np.float32(0.5)
    assert np.array_equal(drawn.numpy(), expected)


def test_a_tokenizer_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1000 tokens.*vocabulary of 40"):
        models.load_vt5(_random(vocab_size=40), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, r"set model\.sha256=null and a model\.tokenizer"),
        ({"sha256": "0" * 64}, r"set model\.sha256=null and a model\.tokenizer"),
        ({"tokenizer": "/no/such/folder"}, r"model\.tokenizer"),
        ({"visual_path": "/no/such/folder"}, r"model\.visual_path"),
        ({"config": {"visual": {"patches": 3}}}, r"unknown visual patches; known: .*patch_size"),
    ],
)
def test_options_that_cannot_be_are_one_clear_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        models.find(OmegaConf.merge(_random(), change), compose().task)


@pytest.mark.parametrize(
    "overrides",
    [
        "model=vt5-base",
        "model=vt5-base model.visual_path=null model.tokenizer=google-t5/t5-base",
        "model=vt5-base-random model.config.visual=null",
        "model=vt5-tiny-visual model.visual_path=microsoft/dit-base model.tokenizer=null",
        "model=t5-base model.path=random model.tokenizer=embedded:vt5_tiny",
    ],
)
def test_every_model_file_takes_every_option(overrides: str) -> None:
    check(compose(overrides))


@pytest.mark.parametrize("key", ["model.tokenizer", "model.visual_path"])
@pytest.mark.parametrize("value", ["3", "''", "[a]"])
def test_a_source_is_null_or_a_name(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=.* should be null or a name"):
        check(compose(f"{key}={value}"))


@pytest.mark.parametrize(
    ("visual", "says"),
    [
        ({"image_size": 64, "patch_size": 7}, "image_size=64 should be a multiple"),
        ({"hidden_size": 32, "num_attention_heads": 3}, "hidden_size=32 should be a multiple"),
    ],
)
def test_sizes_that_leave_a_rest_are_refused(visual: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VT5Config(visual=visual)


@pytest.mark.parametrize(
    ("method", "targets"),
    [("IA3", None), ("VERA", "all-linear"), ("LOKR", ["q", "value"]), ("VERA", ".*(q|value)")],
)
def test_no_method_of_peft_adapts_the_frozen_encoder(method: str, targets: Any) -> None:
    args = {} if targets is None else {"target_modules": targets}
    cfg = OmegaConf.create({"method": method, "args": args})
    wrapped = ADAPTERS["peft"].attach(_whole(), cfg, 0)
    trained = [*ADAPTERS["peft"].get(wrapped)]
    assert trained
    assert not [name for name in trained if "visual_encoder" in name or "lm_head" in name]
