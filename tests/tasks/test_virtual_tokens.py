"""Answers of models with virtual tokens: those of the forward pass that was trained."""

import numpy as np
import pytest
import torch

from fl_app.adapters.peft_methods import adapter
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
