"""Laws of batches and of batched generation."""

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from fl_app.config import compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.models import load_vt5
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.tasks.documents import IGNORED, Collator, predict

MODEL = compose().model
Loaded = tuple[VT5ForConditionalGeneration, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return make_documents(1, POOLS["pretraining"], range(3000, 3004), range(1))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.set_num_threads(1)
    return load_vt5(MODEL, seed=0)


def _collator(loaded: Loaded, prompt: str = "decoder", max_length: int = 320) -> Collator:
    config = VT5Config(**(loaded[0].config.to_dict() | {"prompt": prompt}))
    return Collator(loaded[1], config, max_length)


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
def test_labels_continue_the_decoder_input(
    loaded: Loaded, rows: list[dict[str, Any]], prompt: str
) -> None:
    batch = _collator(loaded, prompt).training(rows)
    answers = [accepted[0].lower() for row in rows for accepted in row["answers"]]
    assert len(batch["labels"]) == len(batch["document"]) == len(answers) == 32
    for given, labels, answer in zip(
        batch["decoder_input_ids"], batch["labels"], answers, strict=True
    ):
        kept = labels[labels != IGNORED]
        assert kept[-1] == loaded[0].config.eos_token_id
        assert loaded[1].decode(kept[:-1]) == answer
        start = int((labels != IGNORED).nonzero()[0])
        # What a position should say is what the next position is told.
        assert torch.equal(given[start + 1 : start + len(kept)], kept[:-1])
        asked = loaded[1].decode(given[: start + 1], skip_special_tokens=True)
        assert asked.endswith("?") == (prompt == "decoder")


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
def test_tokens_have_the_boxes_of_their_words(
    loaded: Loaded, rows: list[dict[str, Any]], prompt: str
) -> None:
    collator = _collator(loaded, prompt)
    batch = collator.training(rows[:1])
    pages = 1 if prompt == "decoder" else 8
    assert batch["input_ids"].shape[0] == pages
    assert batch["bbox"].shape == (*batch["input_ids"].shape, 4)
    assert set(batch["document"].tolist()) == set(range(pages))
    assert not batch["bbox"][batch["attention_mask"] == 0].any()
    for page in range(pages):
        text = {}
        for token, box in zip(batch["input_ids"][page], batch["bbox"][page], strict=True):
            text.setdefault(tuple(box.tolist()), []).append(int(token))
        for word, box in zip(rows[0]["words"], rows[0]["boxes"], strict=True):
            assert word.lower() in loaded[1].decode(text[tuple(box)])
        if prompt == "encoder":
            before = loaded[1].decode(text[0, 0, 1000, 1000], skip_special_tokens=True)
            assert before == f"question: {rows[0]['questions'][page]} context:".lower()


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
def test_a_page_beyond_max_length_is_cut(
    loaded: Loaded, rows: list[dict[str, Any]], prompt: str
) -> None:
    collator = _collator(loaded, prompt, max_length=16)
    for batch in (collator.training(rows), collator.prompts(rows)):
        assert batch["input_ids"].shape[1] == 16
        assert batch["bbox"].shape[1] == 16
    answers = predict(loaded[0], loaded[1], collator, rows, MODEL.max_answer_length)
    assert len(answers) == 32


def test_a_batch_answers_like_one_by_one(loaded: Loaded, rows: list[dict[str, Any]]) -> None:
    model, tokenizer = copy.deepcopy(loaded[0]).double(), loaded[1]  # no tie that rounding decides
    collator = _collator(loaded)
    together = predict(model, tokenizer, collator, rows, MODEL.max_answer_length)
    alone = [
        answer
        for row in rows
        for question, accepted in zip(row["questions"], row["answers"], strict=True)
        for answer in predict(
            model,
            tokenizer,
            collator,
            [row | {"questions": [question], "answers": [accepted]}],
            MODEL.max_answer_length,
        )
    ]
    assert together == alone
    assert len(set(together)) > 16  # not one answer to everything


def test_predict_restores_the_mode_and_uses_no_randomness(
    loaded: Loaded, rows: list[dict[str, Any]]
) -> None:
    model, tokenizer = loaded
    state = torch.random.get_rng_state()
    for training in (True, False):
        model.train(training)
        predict(model, tokenizer, _collator(loaded), rows[:1], 2)
        assert model.training == training
    assert torch.equal(state, torch.random.get_rng_state())


def test_predict_answers_within_the_limit(loaded: Loaded, rows: list[dict[str, Any]]) -> None:
    answers = predict(*loaded, _collator(loaded), rows, 1)
    assert all(len(loaded[1].tokenize(answer)) <= 2 for answer in answers)
