"""What is trained is float32 over every base, and all of it takes part in the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fl_app import models
from fl_app.build import forget_session, open_session
from fl_app.config import compose
from fl_app.faults import FaultError
from fl_app.privacy.clipped_sum import ClippedSum
from fl_app.training.used import check_used
from fl_app.tree import digest
from tests import architectures
from tests.adapters.test_any_model import ROWS, overrides, turn
from tests.rounding import apart

HALF = {"model.dtype": "bfloat16"}
CASES = [
    ("sequence_classification", "bert", "lora", ""),
    ("sequence_classification", "llama", "lora_sb", ""),
    ("sequence_classification", "t5", "ffa_lora", "model.quantization=8bit"),
    ("sequence_classification", "llama", "lora", "model.quantization=4bit"),
    ("causal_lm", "llama", "lora", "adapter.modules_to_save=[embed_tokens]"),
    ("causal_lm", "opt", "lora_sb", "adapter.modules_to_save=[final_layer_norm,fc2]"),
    ("seq2seq", "t5", "full", ""),
    ("causal_lm", "gemma2", "full", "adapter.freeze=[norm]"),
]


@pytest.mark.parametrize(("task", "kind", "adapter", "more"), CASES)
def test_what_is_trained_is_float32_over_a_base_of_fewer_bits(
    task: str, kind: str, adapter: str, more: str, tmp_path: Path
) -> None:
    lr = 1e-5  # of which bfloat16 keeps next to nothing
    words = overrides(tmp_path, task, kind, adapter, **HALF, **{"optimizer.lr": lr})
    if "modules_to_save" in more:
        words += " adapter.target_modules=[q_proj]"
    here = open_session(f"{words} {more} optimizer.warmup=0 optimizer.schedule=constant")
    trained = {n: p for n, p in here.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    frozen = {p.dtype for p in here.model.parameters() if not p.requires_grad}
    assert torch.bfloat16 in frozen or adapter == "full"
    tree, _ = turn(here)
    # Not the rows of tokens that nobody wrote, nor factors whose gradient is 0 at the start.
    whole = [n for n in tree if "lora_" not in n and "embed" not in n and "shared" not in n]
    whole = whole or [n for n in tree if "lora_B" in n]
    moved = np.concatenate([(tree[n] != here.theta0[n]).ravel() for n in whole])
    assert moved.mean() > 0.9
    here.adapter.set(here.model, tree)
    assert digest(here.adapter.get(here.model)) == digest(tree)


def test_an_export_over_half_a_base_computes_what_was_trained(tmp_path: Path) -> None:
    words = overrides(tmp_path, "sequence_classification", "llama", "lora", **HALF)
    here = open_session(words)
    turn(here)
    here.adapter.export(here.model, tmp_path / "adapter")
    batch = here.task.training(ROWS["sequence_classification"])
    cfg = compose(f"{words} model.dtype=float32")
    wide, _ = models.load(cfg.model, cfg.seed, cfg.task)
    loaded = PeftModel.from_pretrained(wide, tmp_path / "adapter").eval()
    with torch.inference_mode():
        expected = here.model(**batch).logits
        assert expected.dtype == torch.float32
        # Each of some 30 operations in bfloat16 rounds by up to 2^-9, and most errors cancel.
        assert apart(loaded(**batch).logits, expected) < 2**-4 * float(expected.abs().max())


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_the_loss_does_not_depend_on_is_not_trained(adapter: str, tmp_path: Path) -> None:
    more = "adapter.modules_to_save=[shared]" if adapter == "lora" else ""
    here = open_session(f"{overrides(tmp_path, 'seq2seq', 't5', adapter)} {more}")
    if adapter == "full":
        here.model.register_parameter("idle", torch.nn.Parameter(torch.ones(2)))
        here.theta0 = here.adapter.get(here.model)
    name = "shared.weight" if adapter == "lora" else "idle"
    says = rf"does not depend on {name},.*adapter\.modules_to_save.*adapter\.freeze"
    with pytest.raises(FaultError, match=says):
        turn(here)
    row = ROWS["seq2seq"][0]
    summed = ClippedSum(here.model.train(), here.task, 1.0, b"key")
    with pytest.raises(FaultError, match=says):
        summed.check([row, row])
    here.model.eval()
    forget_session()


def test_experts_and_dropped_layers_may_be_left_out_of_a_step() -> None:
    model = torch.nn.ModuleDict({"experts": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    check_used(torch.nn.ModuleDict({"mlp": model}))
    dropping = architectures.model("opt", layerdrop=0.5)
    check_used(dropping)
    with pytest.raises(FaultError, match="embed_tokens"):
        check_used(architectures.model("opt"))
