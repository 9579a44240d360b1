"""Methods of PEFT x laws, over kinds of models: start, round trip, what trains, export, merging."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fl_app.adapters.peft_methods import adapter, declared, support
from fl_app.training.used import check_used
from fl_app.tree import digest
from tests.adapters import peft_cells as cells
from tests.rounding import apart, through

# A handful in every run of the suite, of different machinery: scales, Kronecker products, frozen
# projections, one vector for all modules, virtual tokens, and keys and values.
QUICK = {
    *(("IA3", "t5"), ("LOKR", "bert"), ("VERA", "gpt2"), ("UNILORA", "llama"), ("DoRA", "qwen2")),
    *(("PROMPT_TUNING", "t5"), ("PREFIX_TUNING", "llama"), ("OFT", "bert")),
}
TABLE = [
    pytest.param(
        name, kind, id=f"{name}-{kind}", marks=[] if (name, kind) in QUICK else pytest.mark.methods
    )
    for kind in cells.KINDS
    for name in cells.NAMES
]
REFUSED = [
    pytest.param(
        name, kind, id=f"{name}-{kind}", marks=[] if name in ("LOKR",) else pytest.mark.methods
    )
    for kind, names in cells.REFUSES.items()
    for name in sorted(names)
]
TOLERANCE = 1e-5  # of a T5's logits, which are some hundred roundings from each other


@pytest.mark.parametrize(("name", "kind"), TABLE)
def test_a_method_keeps_the_laws(name: str, kind: str, tmp_path: Path) -> None:
    if name in cells.REFUSES[kind]:
        pytest.skip("refused, which another test holds")
    method, _ = cells.method_of(name)
    given = cells.batch(kind)
    model, other = (cells.attached(name, kind, noise=noise) for noise in (1, 2))

    start = adapter.get(model)
    assert digest(start) == digest(adapter.get(other)), "the start is not the seed's"
    assert adapter.fixed(model) == adapter.fixed(other), "what is not sent is not the seed's"
    base = cells.logits(cells.model(kind), given)
    changed = apart(cells.logits(model, given), base) > TOLERANCE
    virtual = declared.is_prompt_learning(method)
    assert changed == (virtual or method in support.CHANGED_START)

    _train(model, given)
    trained = adapter.get(model)
    # Not the factors of a product whose others are 0 at the start.
    moved = [one for one in start if not np.array_equal(start[one], trained[one])]
    assert len(moved) >= len(start) / 4
    expected = cells.logits(model, given)

    adapter.set(other, trained)
    assert digest(adapter.get(other)) == digest(trained)
    assert torch.equal(cells.logits(other, given), expected)

    adapter.export(model, tmp_path)
    loaded = PeftModel.from_pretrained(cells.model(kind), tmp_path)
    assert apart(cells.logits(loaded, given), expected) < through(model) + TOLERANCE

    if virtual or method in support.NOT_MERGED:
        with pytest.raises((AttributeError, NotImplementedError)):
            other.merge_and_unload()
    elif method != "BEFT" or kind in ("bert", "qwen2"):  # it needs biases to merge into
        assert apart(cells.logits(other.merge_and_unload(), given), expected) < TOLERANCE * 10


def _train(model: PeftModel, given: dict[str, torch.Tensor]) -> None:
    """Train for two steps; nothing else than what is sent may move."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    frozen = {name: one.detach().clone() for name, one in tensors if not one.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    model.train()
    for _ in range(3):
        model(**given).loss.backward()
        check_used(model)
        optimizer.step()
        optimizer.zero_grad()
    now = dict([*model.named_parameters(), *model.named_buffers()])
    assert all(torch.equal(values, now[name]) for name, values in frozen.items())


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_a_kind_of_model_cannot_have_is_refused_by_name(name: str, kind: str) -> None:
    method, _ = cells.method_of(name)
    with pytest.raises(ValueError, match=rf"adapter\.method={method}\b|adapter\.args"):
        cells.attached(name, kind)


@pytest.mark.parametrize("name", ["LN_TUNING", "ADAPTION_PROMPT"])
def test_what_would_be_trained_in_bfloat16_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"would train .* in torch\.bfloat16.*model\.dtype"):
        cells.attached(name, "llama", dtype=torch.bfloat16)


@pytest.mark.methods
@pytest.mark.parametrize("name", sorted({*cells.NAMES} - {"LN_TUNING", "ADAPTION_PROMPT"}))
def test_over_a_base_in_bfloat16_float32_is_trained(name: str) -> None:
    model = cells.attached(name, "llama", dtype=torch.bfloat16)
    assert {v.dtype for v in model.parameters() if v.requires_grad} == {torch.float32}
    _train(model, cells.batch("llama"))


def test_what_peft_would_not_save_is_not_trained() -> None:
    from omegaconf import OmegaConf

    arguments = cells.SIZES["VBLORA"] | {"save_only_topk_weights": True}
    cfg = OmegaConf.create({"method": "VBLORA", "args": arguments})
    with pytest.raises(ValueError, match="which PEFT does not save"):
        adapter.attach(cells.model("llama"), cfg, 0)


def test_another_seed_draws_other_projections() -> None:
    one, other = (cells.attached("VERA", "llama", seed=seed) for seed in (1, 2))
    assert adapter.fixed(one) != adapter.fixed(other)


STARTS = """
import sys
from fl_app.tree import digest
from fl_app.adapters.peft_methods import adapter
from tests.adapters import peft_cells as cells
for name in cells.NAMES:
    model = cells.attached(name, "llama")
    print(name, digest(adapter.get(model)), adapter.fixed(model).hex())
"""


@pytest.mark.methods
def test_two_processes_start_alike() -> None:
    """PEFT keeps names in sets, whose order is another in every process."""
    said = [
        subprocess.run(
            [sys.executable, "-c", STARTS],
            check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    ]  # fmt: skip
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == len(cells.NAMES)


@pytest.mark.methods
def test_an_export_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.adapters import peft_cells as cells; "
        "from fl_app.adapters.peft_methods import adapter; "
        "adapter.export(cells.attached('IA3', 't5'), Path(sys.argv[1]))"
    )
    found = []
    for seed in "12":
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        files = sorted((tmp_path / seed).iterdir())
        found.append([(one.name, hashlib.sha256(one.read_bytes()).hexdigest()) for one in files])
    assert found[0] == found[1]
