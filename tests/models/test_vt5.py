"""Laws of the model: boxes matter, pages are shared, checkpoints and PEFT work."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from fl_app.config import compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.models import load_vt5
from fl_app.models.vt5 import SPATIAL, VT5Config, VT5ForConditionalGeneration
from fl_app.tasks.anls import score
from fl_app.tasks.documents import Collator, predict
from tests.rounding import DOUBLES, apart, through

MODEL = compose().model
SMALL = {
    "vocab_size": 1000, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _model(**fields: Any) -> VT5ForConditionalGeneration:
    torch.manual_seed(0)
    return VT5ForConditionalGeneration(VT5Config(**SMALL, **fields)).eval()


def _batch(pages: int = 3, tokens: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(pages, tokens, dtype=torch.long)
    mask[0, 5:] = 0
    return {
        "input_ids": torch.randint(2, 40, (pages, tokens), generator=generator),
        "attention_mask": mask,
        "bbox": torch.randint(0, 1001, (pages, tokens, 4), generator=generator),
    }


def _questions(count: int = 5, tokens: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(2, 40, (count, tokens), generator=generator)
    return {"decoder_input_ids": ids, "labels": ids.roll(-1, 1)}


def _local(path: Path, **fields: Any) -> DictConfig:
    return OmegaConf.create({**MODEL, "path": str(path), "sha256": None, "config": fields})


@pytest.fixture(scope="module")
def plain_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a spatial embedding, as the hub's T5 is."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(3)
    T5ForConditionalGeneration(T5Config(**SMALL)).save_pretrained(folder)
    load_vt5(MODEL, seed=0)[1].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("document", [[0, 0, 1, 2, 2], [2, 0, 1, 0, 2], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_questions_of_a_page_share_it_and_do_not_see_each_other(
    document: list[int], masked: bool
) -> None:
    model, batch, questions = _model(spatial="fourier").double(), _batch(), _questions()
    if masked:
        questions["decoder_attention_mask"] = torch.tensor([[0, 1, 1, 1], *[[1, 1, 1, 1]] * 4])
    labels, pages = questions.pop("labels"), torch.tensor(document)
    labels[2, 2:] = -100
    shared = model(**batch, **questions, document=pages)
    repeated = {key: value[pages] for key, value in batch.items()}
    alone = model(**repeated, **questions, labels=labels)
    first = 1 if masked else 0  # what a masked position says does not matter
    assert apart(shared.logits[0, first:], alone.logits[0, first:]) < DOUBLES
    assert apart(shared.logits[1:], alone.logits[1:]) < DOUBLES
    if not masked:
        taught = model(**batch, **questions, labels=labels, document=pages)
        assert apart(taught.loss, alone.loss) < DOUBLES


def test_without_boxes_it_is_t5(plain_t5: Path) -> None:
    model, _ = load_vt5(_local(plain_t5, spatial="none", prompt="encoder"), seed=0)
    t5 = T5ForConditionalGeneration.from_pretrained(plain_t5).eval().double()
    batch, questions = _batch(pages=5), _questions()
    labels = questions.pop("labels")
    mine = model.double()(**batch, **questions, document=torch.arange(5))
    taught = model(**batch, **questions, labels=labels, document=torch.arange(5))
    del batch["bbox"]
    theirs = t5(**batch, **questions, labels=labels)
    assert apart(mine.logits, theirs.logits) < DOUBLES
    assert apart(taught.loss, theirs.loss) < DOUBLES


@pytest.mark.parametrize("spatial", sorted(SPATIAL))
def test_each_coordinate_of_a_box_matters(spatial: str) -> None:
    model, batch = _model(spatial=spatial).double(), _batch()
    before = model.encode(**batch)
    for coordinate in range(4):
        boxes = batch["bbox"].clone()
        boxes[1, 0, coordinate] = (boxes[1, 0, coordinate] + 100) % 1001
        after = model.encode(**batch | {"bbox": boxes})
        assert apart(after[1], before[1]) > 100 * DOUBLES
        assert apart(after[[0, 2]], before[[0, 2]]) < DOUBLES


def test_table_has_the_competitions_size() -> None:
    assert sum(p.numel() for p in SPATIAL["table"](768).parameters()) == 2_164_992


@pytest.mark.parametrize("spatial", ["none", *sorted(SPATIAL)])
def test_save_and_load(tmp_path: Path, spatial: str) -> None:
    model = _model(spatial=spatial, prompt="decoder")
    model.save_pretrained(tmp_path)
    again = VT5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.spatial == spatial
    assert again.config.prompt == "decoder"
    assert again.lm_head.weight is again.shared.weight
    state = again.state_dict()
    assert {*state} == {*model.state_dict()}
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    answers = (each(**_batch(5), **_questions()).logits for each in (again, model))
    assert apart(*answers) < through(model)


def test_generate_sees_the_boxes() -> None:
    model, batch = _model(spatial="table").double(), _batch()
    start = torch.zeros(3, 1, dtype=torch.long)
    options = {"decoder_input_ids": start, "max_new_tokens": 1, "do_sample": False}
    ids = model.generate(**batch, **options, return_dict_in_generate=True, output_logits=True)
    expected = model(**batch, decoder_input_ids=start).logits[:, -1]
    assert apart(ids.logits[0], expected) < DOUBLES


def test_lora_on_every_linear_layer_learns() -> None:
    model, _ = load_vt5(MODEL, seed=0)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules="all-linear", exclude_modules=["lm_head"])
    )
    trained = {n.split(".lora_")[0] for n, p in wrapped.named_parameters() if p.requires_grad}
    assert {n.removeprefix("base_model.model.") for n in trained} == set(names)
    assert "spatial.projection" in names
    rows = make_documents(1, POOLS["federated"], range(2), range(1))
    batch = Collator(load_vt5(MODEL, seed=0)[1], model.config, 320).training(rows)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = wrapped(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def test_missing_weights_come_from_the_seed_alone(plain_t5: Path) -> None:
    cfg = _local(plain_t5, spatial="table")
    torch.manual_seed(10)
    first = load_vt5(cfg, seed=0)[0].state_dict()
    state = torch.random.get_rng_state()
    second = load_vt5(cfg, seed=0)[0].state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    other = load_vt5(cfg, seed=1)[0].state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        drawn = name in ("spatial.x.weight", "spatial.y.weight", "spatial.matcher.weight")
        assert torch.equal(value, other[name]) != drawn


def test_loading_prints_nothing(plain_t5: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_vt5(MODEL, seed=0)
    load_vt5(_local(plain_t5, spatial="fourier"), seed=0)
    assert capfd.readouterr() == ("", "")


def test_the_shipped_model_reads_invoices_it_was_trained_for() -> None:
    model, tokenizer = load_vt5(MODEL, seed=0)
    rows = make_documents(1, POOLS["pretraining"], range(5000, 5010), range(1))
    collator = Collator(tokenizer, model.config, MODEL.max_length)
    answers = [accepted for row in rows for accepted in row["answers"]]
    predictions = predict(model, tokenizer, collator, rows, MODEL.max_answer_length)
    assert score(predictions, answers)["anls"] > 0.9


def test_the_shipped_weights_are_small_and_checked() -> None:
    from fl_app.files import installed

    assert MODEL.sha256
    assert installed("fl_app/models/vt5_tiny/model.safetensors").stat().st_size < 4_000_000
    with pytest.raises(ValueError, match="git checkout"):
        load_vt5(OmegaConf.merge(MODEL, {"sha256": "0" * 64}), seed=0)


@pytest.mark.parametrize("path", ["embedded:vt5_large", "/no/such/folder"])
def test_a_missing_model_is_one_clear_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"make setup|model\.path"):
        load_vt5(OmegaConf.merge(MODEL, {"path": path, "sha256": None}), seed=0)


def test_unknown_config_values_name_the_alternatives(plain_t5: Path) -> None:
    with pytest.raises(ValueError, match="known: none, table, fourier"):
        load_vt5(_local(plain_t5, spatial="rotary"), seed=0)
    with pytest.raises(ValueError, match="known: decoder, encoder"):
        load_vt5(_local(plain_t5, prompt="both"), seed=0)
    with pytest.raises(ValueError, match=r"unknown model\.config keys: spacial"):
        load_vt5(_local(plain_t5, spacial="table"), seed=0)
