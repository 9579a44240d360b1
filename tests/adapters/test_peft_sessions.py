"""Methods of PEFT in a session: a client's turn, scores, private training, bases of fewer bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from benchmarks import peft_methods
from fl_app.adapters.peft_methods import support
from fl_app.build import forget_session, open_session
from fl_app.privacy.clipped_sum import ClippedSum
from tests.adapters.test_any_model import ROWS, overrides, turn

ROOT = Path(__file__).parents[2]
VIRTUAL = "adapter.args.num_virtual_tokens=4"
TURNS = [
    ("sequence_classification", "bert", "IA3", ""),
    *(
        pytest.param(*case, marks=pytest.mark.methods)
        for case in (
            ("causal_lm", "llama", "PROMPT_TUNING", VIRTUAL),
            ("causal_lm", "gemma2", "PREFIX_TUNING", VIRTUAL),
            ("causal_lm", "opt", "P_TUNING", f"{VIRTUAL} adapter.args.encoder_dropout=0.1"),
            ("causal_lm", "mistral", "VERA", "adapter.args.vera_dropout=0.1"),
            ("causal_lm", "llama", "PVERA", "adapter.args.pvera_dropout=0.1"),
            ("causal_lm", "llama", "OFT", "adapter.args.module_dropout=0.5"),
            ("causal_lm", "llama", "LOKR", "adapter.args.rank_dropout=0.5"),
            ("seq2seq", "t5", "PREFIX_TUNING", VIRTUAL),
            ("seq2seq", "t5", "BOFT", "adapter.args.boft_dropout=0.2"),
            ("sequence_classification", "bert", "PROMPT_TUNING", VIRTUAL),
            ("sequence_classification", "t5", "UNILORA", ""),
            ("sequence_classification", "llama", "LOHA", ""),
        )
    ),
]


@pytest.mark.parametrize(("task", "kind", "method", "more"), TURNS)
def test_a_method_trains_is_scored_and_is_private(
    task: str, kind: str, method: str, more: str, tmp_path: Path
) -> None:
    words = f"{overrides(tmp_path, task, kind, 'peft')} adapter.method={method} {more}"
    here = open_session(words)
    tree, _ = turn(here)
    assert any(not np.array_equal(tree[name], here.theta0[name]) for name in tree)
    rows = ROWS[task]
    if task != "sequence_classification":  # prompts of several lengths
        rows = [{"instruction": "ab " * n, "output": "b"} for n in (1, 5, 9, 5)]
    data = Dataset.from_list(rows[:4])
    alone = [here.task.predict(here.model, data.select([row]))[0] for row in range(4)]
    assert here.task.predict(here.model, data) == alone

    summed = ClippedSum(here.model.train(), here.task, 1.0, b"key")
    summed.check(rows[:2])
    found = []
    for others in (rows[:0], rows[2:4]):
        for row in others:
            summed.add(row, 0)
        summed.clear()
        summed.add(rows[0], 0)
        found.append({name: one.clone() for name, one in summed.sums.items()})
        summed.clear()
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())
    forget_session()


@pytest.mark.methods
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("method", sorted(support.QUANTIZED))
def test_a_method_trains_over_a_base_of_fewer_bits(method: str, bits: str, tmp_path: Path) -> None:
    more = VIRTUAL if method in support.REQUIRED else ""
    more += "adapter.args.group_size=16" if method == "ROAD" else ""
    words = f"{overrides(tmp_path, 'causal_lm', 'llama', 'peft')} adapter.method={method} {more}"
    here = open_session(f"{words} model.quantization={bits}")
    tree, _ = turn(here)
    assert any(not np.array_equal(tree[name], here.theta0[name]) for name in tree)
    forget_session()


def test_virtual_tokens_take_positions(tmp_path: Path) -> None:
    words = overrides(tmp_path, "sequence_classification", "bert", "peft")
    words += " adapter.method=PROMPT_TUNING"
    with pytest.raises(ValueError, match=r"positions.*lower model\.max_length"):
        open_session(f"{words} adapter.args.num_virtual_tokens=500")


@pytest.mark.methods
def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    assert peft_methods.made() in (ROOT / "docs" / "methods.md").read_text()
