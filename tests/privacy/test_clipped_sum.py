"""Gradients of single rows: autograd's own, and one row changes their sum by at most the clip."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import nn

from fl_app.data.padding import IGNORED
from fl_app.faults import FaultError
from fl_app.privacy import dp_sgd
from fl_app.privacy.clipped_sum import ClippedSum
from fl_app.training.loop import Hooks
from tests.combinations import combinations
from tests.private import build, configured, trained

KEY = bytes(32)
SAVED = "'adapter.modules_to_save=[{}]'"
PAIRS: list[tuple[str, str, str]] = [
    *((k, a, "") for k, a in itertools.product(("llama", "t5", "bert"), ("lora", "full"))),
    *((k, a, "") for k, a in itertools.product(("vt5", "opt"), ("lora", "lora_sb", "full"))),
    *((k, "lora_sb", "") for k in ("gemma2", "t5", "bert")),
    ("gemma2", "full", ""),
    ("llama", "ffa_lora", ""),
    ("opt", "lora", SAVED.format("embed_positions")),  # looked up two places further on
    ("opt", "lora", SAVED.format("lm_head")),  # tied to the embedding, until it is saved
    ("vt5", "ffa_lora", SAVED.format("lm_head")),
]


IN_SUITE = [  # every architecture, adapter and way to save a module
    *(
        (kind, adapter, "")
        for kind, adapter in (("llama", "lora"), ("t5", "full"), ("bert", "lora"))
    ),
    *((kind, "lora_sb", "") for kind in ("vt5", "gemma2")),
    ("llama", "ffa_lora", ""),
    *(pair for pair in PAIRS if pair[2] and pair[0] in ("opt", "t5")),
]


@pytest.mark.parametrize(("kind", "adapter", "more"), combinations(PAIRS, suite=IN_SUITE))
def test_weighted_they_are_the_gradient_of_the_batch_in_double_precision(
    kind: str, adapter: str, more: str
) -> None:
    """Of weights that are tied, shared, looked up by position or once for all rows, too."""
    model, task, rows = build(kind, adapter, more)
    clipped = ClippedSum(model, task, 1.0, KEY)
    clipped.check(rows)
    kept = [row for row in rows if task.examples([row])]
    labels = [int((task.training([row])["labels"] != IGNORED).sum()) for row in kept]
    if kind == "bert":
        labels = [1] * len(kept)
    if kind in ("llama", "gemma2", "opt"):  # the first position is predicted by none
        labels = [int((task.training([row])["labels"][:, 1:] != IGNORED).sum()) for row in kept]
    total: dict[str, torch.Tensor] = {}
    for row, count in zip(kept, labels, strict=True):
        for name, values in clipped.gradient(row, 0).items():
            total[name] = total.get(name, 0) + values.double() * (count / sum(labels))
    if kind != "gemma2":  # whose mask has no number for padding in double precision
        model.double()
    model(**task.training(rows)).loss.backward()
    found = {n: p.grad.double() for n, p in trained(model).items() if p.grad is not None}
    assert {*total} == {*found}
    largest = max(float(values.abs().max()) for values in found.values())
    for name, wanted in found.items():
        scale = float(wanted.abs().max())
        torch.testing.assert_close(
            total[name], wanted, rtol=1e-3, atol=1e-4 * scale + 1e-7 * largest
        )
    assert sum(bool(values.any()) for values in found.values()) > 0.8 * len(found) > 0


def sums(model, task, rows, cfg, seed: int = 0) -> torch.Tensor:
    """The sum of the one step of a turn, to which hardly any noise was added."""
    seen: list[torch.Tensor] = []

    def look(model: nn.Module) -> None:
        seen.append(torch.cat([p.grad.double().flatten() for p in trained(model).values()]))
        for parameter in trained(model).values():
            parameter.grad.zero_()  # the model stays where it is

    dp_sgd.train(model, rows, task, cfg, seed=seed, hooks=Hooks(gradients=[look]))
    (gradient,) = seen
    return gradient * len(rows)


@pytest.mark.parametrize(
    ("kind", "adapter", "dropout"),
    combinations(
        (
            (*pair, dropout)
            for pair in (
                ("vt5", "lora"), ("llama", "lora"), ("bert", "lora"), ("t5", "lora_sb"),
                ("opt", "full"),
            )
            for dropout in (0.1, 0.5)
        ),
        suite=[("vt5", "lora", 0.1), ("t5", "lora_sb", 0.5), ("opt", "full", 0.5)],
    ),
)  # fmt: skip
def test_no_row_changes_the_sum_by_more_than_the_clip(
    kind: str, adapter: str, dropout: float
) -> None:
    """Whatever dropout does, and wherever the row stood: masks belong to rows, not to places."""
    model, task, rows = build(kind, adapter, dropout=dropout)
    clip = 0.01
    cfg = configured(
        kind, adapter, privacy__noise="seeded", privacy__noise_multiplier=1e-12, batch_size=10,
        privacy__max_grad_norm=clip, optimizer__weight_decay=0.0,
    )  # fmt: skip
    everyone = sums(model, task, rows, cfg)
    assert not torch.equal(everyone, sums(model, task, rows, cfg, seed=1))  # there is dropout
    for gone in {0, len(rows) // 2, len(rows) - 1}:
        change = everyone - sums(model, task, rows[:gone] + rows[gone + 1 :], cfg)
        length = float(change.norm())
        expected = clip if task.examples([rows[gone]]) else 0.0
        assert length == pytest.approx(expected, rel=1e-4, abs=1e-6 * clip)


def test_a_row_of_which_every_layer_was_dropped_adds_nothing() -> None:
    model, task, rows = build("opt", "lora", dropout=1 - 1e-9)
    assert ClippedSum(model, task, 1.0, KEY).gradient(rows[0], 0) == {}


@settings(max_examples=20)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=6), st.floats(1e-6, 1e6)
)
def test_a_clipped_gradient_is_never_longer(values: list[float], clip: float) -> None:
    given_gradient = {"a": torch.tensor(values), "b": torch.tensor(values[:1])}

    class Given(ClippedSum):
        def gradient(self, row, step):
            return given_gradient

    clipped = Given(nn.Linear(1, 1), None, clip, KEY)
    clipped.sums = {n: torch.zeros(v.shape, dtype=torch.float64) for n, v in given_gradient.items()}
    clipped.add({}, 0)
    flat = torch.cat(list(clipped.sums.values()))
    assert float(flat.norm()) <= clip * (1 + 1e-12)
    whole = torch.cat([v.double() for v in given_gradient.values()])
    if float(whole.norm()) <= clip:
        assert torch.equal(flat, whole)


def test_without_dropout_it_is_what_opacus_clips_and_adds_up() -> None:
    model, task, rows = build("llama", "lora")
    clip = 0.3
    clipped = ClippedSum(model, task, clip, KEY)
    for row in rows:
        clipped.add(row, 0)
    private = DPOptimizer(
        torch.optim.SGD(trained(model).values(), lr=0.0),
        noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1,
    )  # fmt: skip
    hooks = GradSampleHooks(model, loss_reduction="sum")
    for row in rows:
        model(**task.training([row])).loss.backward()
        private.clip_and_accumulate()
        for parameter in private.params:
            parameter.grad_sample = None
    for name, parameter in trained(model).items():
        torch.testing.assert_close(
            clipped.sums[name].float(), parameter.summed_grad, rtol=1e-3, atol=1e-6
        )
    hooks.cleanup()


@pytest.mark.parametrize("poison", [math.inf, math.nan, 3e38])
def test_a_row_whose_gradient_is_not_finite_adds_nothing_and_is_not_told_of(poison: float) -> None:
    """A server could choose weights that only one kind of row fails with."""
    model, task, rows = build("llama", "lora")
    word = task.training([rows[0]])["input_ids"][0, 1]
    others = [row for row in rows if word not in task.training([row])["input_ids"]]
    assert 0 < len(others) < len(rows)
    model.get_input_embeddings().weight.data[word] = poison
    cfg = configured(
        "llama", "lora", privacy__noise="seeded", privacy__noise_multiplier=1e-12, batch_size=10
    )
    every, some = sums(model, task, rows, cfg), sums(model, task, others, cfg)
    assert torch.isfinite(every).all()
    torch.testing.assert_close(every, some, rtol=1e-4, atol=1e-8)


# ---- what mixes rows is refused ----------------------------------------------------------------


class Behind(nn.Module):
    """Changes the states that a layer gives, [rows, tokens, width]."""

    def __init__(self, layer: nn.Module, change: nn.Module) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, *args, **kwargs):
        states = self.layer(*args, **kwargs)
        return states + self.change(states.transpose(1, 2)).transpose(1, 2)


class Remembers(nn.Module):
    """Adds what it saw before, which no buffer shows."""

    last: torch.Tensor | float = 0.0

    def forward(self, states):
        before, self.last = self.last, states.detach().mean()
        return states * before


class Collects(nn.Module):
    """Adds all that it saw before, which no attribute shows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, states):
        before = sum(self.seen)
        self.seen.append(states.detach().mean())
        return states * before


NORMS = {
    "a frozen batch norm": (lambda: nn.BatchNorm1d(64), "BatchNorm1d"),
    "one without statistics": (
        lambda: nn.BatchNorm1d(64, track_running_stats=False), "BatchNorm1d",
    ),
    "one over machines": (lambda: nn.SyncBatchNorm(64), "SyncBatchNorm"),
    "a memory": (Collects, "lora_R"),
}  # fmt: skip


def changed(change: nn.Module):
    model, task, rows = build("llama")
    inner = model.base_model.model.model
    inner.embed_tokens = Behind(inner.embed_tokens, change.requires_grad_(False))
    return model.train(), task, rows


@pytest.mark.parametrize("case", NORMS)
def test_what_lets_one_row_change_another_is_refused_by_name(case: str) -> None:
    make, named = NORMS[case]
    model, task, rows = changed(make())
    with pytest.raises(FaultError, match=named) as caught:
        dp_sgd.train(model, rows, task, configured("llama"), seed=0)
    assert caught.value.kind == "mixes_rows"


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


def rotated():
    """A decoder whose rotary frequencies are made anew for a row longer than any before."""
    model, task, _ = build("llama", rotary=DYNAMIC)
    rows = [{"instruction": "why " * times, "output": "so"} for times in (8, 8, 12, 8, 8)]
    return model, task, rows


@pytest.mark.parametrize(
    "made",
    [
        lambda: changed(nn.InstanceNorm1d(64, track_running_stats=True)),
        lambda: changed(Remembers()),
        rotated,
    ],
    ids=["running statistics", "an attribute", "dynamic rotary embeddings"],
)
def test_what_a_row_leaves_in_a_module_is_put_back_before_the_next(made) -> None:
    model, task, rows = made()
    clipped = ClippedSum(model, task, 1.0, KEY)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    clipped.check(rows)
    alone = clipped.gradient(rows[-1], 0)
    for row in rows:
        clipped.gradient(row, 0)
    after = clipped.gradient(rows[-1], 0)
    assert all(torch.equal(values, alone[name]) for name, values in after.items())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(64), nn.GroupNorm(4, 64), nn.Identity()])
def test_what_normalizes_one_row_alone_is_not(norm: nn.Module) -> None:
    model, task, rows = changed(norm)
    ClippedSum(model, task, 1.0, KEY).check(rows)


def test_batch_normalization_that_stays_in_evaluation_mode_is_not() -> None:
    model, task, rows = changed(nn.BatchNorm1d(64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    ClippedSum(model, task, 1.0, KEY).check(rows)


def test_nothing_of_a_row_stays_behind() -> None:
    model, task, rows = build("vt5", "lora", dropout=0.5)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    dp_sgd.train(model, rows, task, configured("vt5", "lora"), seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
