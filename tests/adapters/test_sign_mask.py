"""Sign masks: random factors of which signs are learnt, and how they are pruned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from fl_app import models
from fl_app.adapters import full, sign_mask
from fl_app.adapters.sign_mask import SignedA, SignedB, pruned, saliency
from fl_app.build import forget_session, open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from tests import small

EPS = float(np.finfo(np.float32).eps)
WORDS = f"{small.RUN} adapter=sign_mask adapter.r=2 codec=fp32"


def here(words: str = ""):
    forget_session()
    session = open_session(f"{WORDS} {words}")
    session.model.eval()
    return session


def logits(model, session) -> torch.Tensor:
    rows = session.documents(0).to_list()[:1]
    with torch.no_grad():
        return model(**session.task.training(rows)).logits


def signed(rows: int = 5, inner: int = 3, out: int = 4) -> tuple[SignedA, SignedB]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(inner, rows, generator=generator)
    b = torch.randn(out, inner, generator=generator)
    a[0, 1] = b[2, 2] = 0  # pruned
    return SignedA(a, 0.1), SignedB(b, 0.1)


def test_at_the_start_the_model_is_the_base_bit_for_bit() -> None:
    session = here("adapter.density=0.5")
    base, _ = models.load(session.cfg.model, session.cfg.seed, session.cfg.task)
    base.eval()
    assert torch.equal(logits(session.model, session), logits(base, session))


def test_sizes_are_those_that_were_drawn_and_pruned_entries_are_zero() -> None:
    a, _ = signed()
    with torch.no_grad():
        a.scores.copy_(torch.randn(a.scores.shape))
    assert torch.equal(a.weight.abs(), a.weight0.abs())
    assert a.weight[0, 1] == 0
    assert a.scores.numel() == a.weight0.numel() - 1
    expected = torch.where(a.scores < 0, -1.0, 1.0) * a.weight0.flatten()[a.kept]
    assert torch.equal(a.weight.flatten()[a.kept], expected)


def test_the_sign_of_zero_is_plus() -> None:
    a, _ = signed()
    with torch.no_grad():
        a.scores.zero_()
    assert torch.equal(a.weight, a.weight0)


def test_the_gradient_of_a_score_is_that_of_its_weight_times_the_weight_as_drawn() -> None:
    a, b = signed()
    x = torch.randn(7, 5)
    weight = a.weight.detach().requires_grad_(True)
    h = torch.cat([x @ weight.T, x @ a.weight0.T], dim=-1)
    (b(h) ** 2 + b(h)).sum().backward()
    (b(a(x)) ** 2 + b(a(x))).sum().backward()
    expected = (weight.grad * a.weight0).flatten()[a.kept]
    assert expected.any()
    torch.testing.assert_close(a.scores.grad, expected, rtol=1e-5, atol=1e-5)


def test_flipping_a_row_of_a_and_the_column_of_b_changes_nothing() -> None:
    a, b = signed()
    with torch.no_grad():
        a.scores.copy_(torch.randn(a.scores.shape))
        b.scores.copy_(torch.randn(b.scores.shape))
        x = torch.randn(6, 5)
        before = b(a(x))
        rows, columns = a.kept // 5, b.kept % 3
        a.scores[rows == 1] *= -1
        b.scores[columns == 1] *= -1
        torch.testing.assert_close(b(a(x)), before, rtol=0, atol=100 * EPS)


@given(seed=st.integers(0, 99), shape=st.tuples(*3 * [st.integers(1, 6)]))
@settings(max_examples=50, deadline=None)
def test_saliencies_of_both_factors_of_a_module_add_up_to_the_same(seed: int, shape) -> None:
    generator, (r, inner, out) = torch.Generator().manual_seed(seed), shape
    a, b = torch.randn(r, inner, generator=generator), torch.randn(out, r, generator=generator)
    of_a, of_b = saliency(a, b)
    total = (b.double().abs() @ a.double().abs()).sum()
    torch.testing.assert_close(of_a.sum(), total)
    torch.testing.assert_close(of_b.sum(), total)
    # And it is |w| times the gradient of that sum, as SynFlow has it.
    leaf = a.double().abs().requires_grad_(True)
    (b.double().abs() @ leaf).sum().backward()
    torch.testing.assert_close(of_a, leaf.grad * leaf.detach())


@given(density=st.floats(0.05, 1), iterations=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_largest_of_all_modules_stay(density: float, iterations: int) -> None:
    generator = torch.Generator().manual_seed(1)
    factors = {
        n: (torch.randn(3, size, generator=generator), torch.randn(7, 3, generator=generator))
        for n, size in (("p", 4), ("q", 9))
    }
    count = sum(x.numel() for pair in factors.values() for x in pair)
    masks = pruned(factors, density, iterations)
    kept = int(sum(m.sum() for pair in masks.values() for m in pair))
    assert kept == int(density * count) or (iterations > 1 and kept < int(density * count))
    if iterations == 1:
        scores = torch.cat([s.flatten() for a, b in factors.values() for s in saliency(a, b)])
        mask = torch.cat([m.flatten() for pair in masks.values() for m in pair]) > 0
        assert not mask.any() or mask.all() or scores[mask].min() > scores[~mask].max()


def test_a_mask_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps no entry: raise it"):
        here("adapter.density=1e-9")


def test_masks_and_factors_come_from_the_seed_alone() -> None:
    words = "adapter.density=0.3"
    one = here(words)
    first = sign_mask.fixed(one.model), one.manifest
    d = sum(x.size for x in one.theta0.values())
    whole = sum(x.size for x in here().theta0.values())
    assert d == int(0.3 * whole)
    other = here(f"{words} data.providers_per_client=1")  # other rows
    assert (sign_mask.fixed(other.model), other.manifest) == first
    assert here(f"{words} seed=1").manifest != first[1]


def test_training_and_setting_leave_the_random_values_alone() -> None:
    session = here()
    before = sign_mask.fixed(session.model)
    full.set(session.model, {n: -x for n, x in session.theta0.items()})
    assert sign_mask.fixed(session.model) == before
    assert {n.rpartition(".")[2] for n in session.theta0} == {"scores"}


def test_an_export_is_a_lora_of_twice_the_rank_with_the_same_product(tmp_path: Path) -> None:
    session = here("adapter.density=0.7")
    rng = np.random.default_rng(0)
    tree = {n: rng.normal(0, 1, x.shape).astype(np.float32) for n, x in session.theta0.items()}
    session.adapter.set(session.model, tree)
    expected = logits(session.model, session)
    session.adapter.export(session.model, tmp_path)
    base, _ = models.load(session.cfg.model, session.cfg.seed, session.cfg.task)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert loaded.peft_config["default"].r == 2 * session.cfg.adapter.r
    torch.testing.assert_close(logits(loaded, session), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("adapter.density=0", "adapter.density=0 should be in"),
        ("adapter.density=1.5", "adapter.density=1.5 should be in"),
        ("adapter.init=0", "adapter.init=0 should be"),
        ("adapter.iterations=0", "adapter.iterations=0 should be"),
        ("adapter.iterations=1001", "adapter.iterations=1001 should be a whole number from 1 to"),
        (
            "model=llama-tiny data=word_problems task=word_problems model.quantization=4bit",
            "set model.quantization=none, or adapter=lora",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(f"federation.clients=3 clients_per_round=1 adapter=sign_mask {words}"))
