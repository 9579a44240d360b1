"""Answers of models with virtual tokens: those of the forward pass that was trained."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fl_app import models
from fl_app.adapters.peft_methods import adapter
from fl_app.config import compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.provider import POOLS
from fl_app.tasks.documents import Collator
from fl_app.tasks.evaluation import greedy
from tests.adapters import peft_cells as cells

END, MOST = 2, 6
LENGTHS = (9, 5, 7, 5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((("llama", "PREFIX_TUNING"), ("gpt2", "PROMPT_TUNING"), ("t5", "CARTRIDGE"))),
        *(
            pytest.param(kind, name, marks=pytest.mark.methods)
            for kind in ("gpt2", "llama", "qwen2", "t5")
            for name in ("P_TUNING", "PROMPT_TUNING", "PREFIX_TUNING", "CARTRIDGE", "IA3")
        ),
    ],
)
def test_every_token_is_the_likeliest_of_a_forward_pass(kind: str, name: str) -> None:
    model = cells.attached(name, kind).eval()
    rng = np.random.default_rng(0)
    start = adapter.get(model).items()
    adapter.set(model, {n: (v + rng.standard_normal(v.shape)).astype(np.float32) for n, v in start})
    both = kind == "t5"
    ids = torch.randint(4, cells.WORDS, (len(LENGTHS), 9), generator=torch.Generator())
    mask = torch.stack(
        [(torch.arange(9) < n) if both else (torch.arange(9) >= 9 - n) for n in LENGTHS]
    )
    given = {"input_ids": ids * mask, "attention_mask": mask.long()}
    with torch.inference_mode():
        got = greedy(model, given, MOST, 0, END)
        for row, found in enumerate(got):
            text = ids[row][mask[row]].tolist()
            answer = [0] if both else []
            for token in found[1 if both else 9 :].tolist():
                sequence = torch.tensor([text if both else text + answer])
                more = {"decoder_input_ids": torch.tensor([answer])} if both else {}
                seen = torch.ones_like(sequence)
                scores = model(input_ids=sequence, attention_mask=seen, **more).logits
                assert token == int(scores[0, -1].argmax())
                answer.append(token)
                if token == END:
                    break
            assert answer[-1] == END or len(answer) == MOST + both


def test_so_are_the_answers_about_a_page() -> None:
    """VT5 generates behind its encoder, which prompts and words of two lengths enter once."""
    cfg = compose("model=vt5-tiny")
    base, tokenizer = models.load_vt5(cfg.model, 0)
    args = OmegaConf.create({"method": "PROMPT_TUNING", "args": {"num_virtual_tokens": 3}})
    model = adapter.attach(base, args, 0).eval()
    assert {n: x.shape for n, x in adapter.get(model).items()} == {
        "prompt_encoder.default.embedding.weight": (3, 128)
    }
    rows = make_documents(7, POOLS["federated"], [0, 1], [0])
    rows[0] |= {part: rows[0][part][:9] for part in ("words", "boxes")}
    collator = Collator(tokenizer, base.config, 40)
    prompts = collator.prompts(rows)
    width = prompts["decoder_input_ids"].shape[1]
    with torch.inference_mode():
        together = greedy(model, prompts, MOST, collator.pad, collator.end)[:, width:].tolist()
        alone = [(row, question) for row in rows for question in row["questions"]]
        for (row, question), found in zip(alone, together, strict=True):
            given = collator.prompts([{**row, "questions": [question]}])
            for token in found:
                ids = given["decoder_input_ids"]
                more = {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
                assert token == int(model(**{**given, **more}).logits[0, -1].argmax())
                given["decoder_input_ids"] = torch.cat([ids, ids.new_tensor([[token]])], 1)
                if token == collator.end:
                    break
