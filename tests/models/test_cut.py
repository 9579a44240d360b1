"""A model cut in three computes what the whole one does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PromptTuningConfig, TaskType, get_peft_model

from fl_app import models
from fl_app.config import compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.models.cut import Cut, CutError
from fl_app.tasks.documents import Collator
from tests import architectures

KINDS = {
    "bert": TaskType.SEQ_CLS,
    "llama": TaskType.CAUSAL_LM,
    "gemma2": TaskType.CAUSAL_LM,  # whose blocks differ by their place
    "mistral": TaskType.CAUSAL_LM,
}
BLOCKS, PROMPTS, IGNORED = 4, 3, -100
WORDS = 40  # of a page
VT5 = ("vt5-tiny", "vt5-tiny-visual", "vt5-tiny-quecc")


def prompted(kind: str, **changes):
    model = architectures.model(kind, num_hidden_layers=BLOCKS, **changes)
    torch.manual_seed(0)
    config = PromptTuningConfig(task_type=KINDS[kind], num_virtual_tokens=PROMPTS)
    return get_peft_model(model, config).eval()


def padded(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch whose rows have padding on their right."""
    batch = architectures.batch(kind, seed=seed)
    width = batch["input_ids"].shape[1]
    lengths = torch.tensor(np.random.default_rng(seed).integers(2, width + 1, 3))
    lengths[-1] = width
    mask = (torch.arange(width) < lengths[:, None]).long()
    labels = batch["labels"]
    if labels.dim() > 1:
        labels = labels.masked_fill(mask == 0, IGNORED)
    return {**batch, "attention_mask": mask, "labels": labels}


def trained(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def in_parts(cut: Cut, batch, a, mask: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """Do a step from the head's states a, all sent but some; return the logits."""
    zeros = left_out.unsqueeze(-1)
    at_server = a.detach().masked_fill(zeros, 0).requires_grad_()
    z = cut.body(at_server, mask)
    at_client = z.detach().masked_fill(zeros, 0).requires_grad_()
    with cut.after_body(at_client):
        split = cut.model(**batch)
    split.loss.backward()
    z.backward(at_client.grad)
    a.backward(at_server.grad)
    return split.logits


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(head=st.integers(0, BLOCKS - 1), seed=st.integers(0, 50))
def test_logits_and_gradients_are_those_of_the_whole_model(kind: str, head: int, seed: int) -> None:
    """Bit for bit: the same operations on the same numbers."""
    model, batch = prompted(kind), padded(kind, seed)
    whole = model(**batch)
    whole.loss.backward()
    expected = {n: p.grad.clone() for n, p in trained(model).items()}
    assert len(expected) == (3 if kind == "bert" else 1)  # the prompt, and a head's two
    model.zero_grad()

    cut = Cut(model, head)
    a, mask = cut.head(batch)
    assert a.shape[:2] == mask.shape == (3, PROMPTS + batch["input_ids"].shape[1])
    assert mask.sum() == batch["attention_mask"].sum() + 3 * PROMPTS
    nothing = torch.zeros_like(mask)
    assert torch.equal(in_parts(cut, batch, a, mask, nothing), whole.logits)
    for name, parameter in trained(model).items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", VT5)
def test_a_vt5_is_cut_in_its_encoder(name: str) -> None:
    """Bit for bit, also what stands before the blocks: prompts, boxes, a compressor of pictures.

    The body, which lacks the first block, computes its bias of positions by itself.
    """
    cfg = compose(f"model={name}")
    base, tokenizer = models.load_vt5(cfg.model, 0)
    before = [part for part in ("quecc", "visual_matcher") if hasattr(base, part)]
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=PROMPTS,
        num_transformer_submodules=1,
        modules_to_save=["final_layer_norm", *before],
    )
    torch.manual_seed(0)
    model = get_peft_model(base, config).eval()
    rows = make_documents(7, POOLS["federated"], [0, 1], [0], marks=2)
    rows[0] |= {part: rows[0][part][:9] for part in ("words", "boxes")}  # pages of other lengths
    batch = Collator(tokenizer, base.config, WORDS).training(rows)
    whole = model(**batch)
    whole.loss.backward()
    expected = {n: p.grad.clone() for n, p in trained(model).items()}
    assert all(x.abs().sum() > 0 for x in expected.values())
    pages = len(batch["document"]) if base.page_per_question else len(rows)
    for head in range(3):
        model.zero_grad()
        cut = Cut(model, head)
        a, mask = cut.head(batch)
        assert a.shape == (pages, PROMPTS + WORDS + base.visual_tokens_per_page, 128)
        lengths = mask.sum(1)
        assert lengths.min() < a.shape[1] == lengths.max()
        padding = ~mask
        assert torch.equal(in_parts(cut, batch, a, mask, padding), whole.logits)
        for n, p in trained(model).items():
            assert torch.equal(p.grad, expected[n]), n


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_body_the_last_states_are_those_of_the_head(kind: str) -> None:
    model, batch = prompted(kind), padded(kind)
    cut = Cut(model, 2)
    with cut.without_body():
        short = model(**batch).logits
    with cut.after_body(cut.head(batch)[0]):
        assert torch.equal(model(**batch).logits, short)
    assert not torch.equal(model(**batch).logits, short)


def test_the_model_is_whole_again_also_after_an_error() -> None:
    model, batch = prompted("llama"), padded("llama")
    blocks = [*Cut(model, 1).blocks]
    with pytest.raises(ZeroDivisionError), Cut(model, 1).without_body():
        raise ZeroDivisionError
    Cut(model, 1).head(batch)
    assert [*Cut(model, 1).blocks] == blocks


def test_a_cut_that_cannot_be_is_refused() -> None:
    model = prompted("bert")
    with pytest.raises(CutError, match="4 blocks should leave one of the model's 4"):
        Cut(model, BLOCKS)
    with pytest.raises(CutError, match="a classifier like BERT, a decoder like Llama or"):
        Cut(architectures.model("opt"), 1)
    model.base_model.bert.encoder.layer[3].requires_grad_(True)
    with pytest.raises(CutError, match="a block is trained"):
        Cut(model, 1)
