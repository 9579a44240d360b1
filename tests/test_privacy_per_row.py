"""Gradients per row: those of one row at a time, of every architecture, task and adapter."""

import itertools

import pytest
import torch
from torch import nn

from fl_app.privacy.per_row import TOLERANCE, PerRowGradients
from tests.private import build, trained
from tests.rounding import assert_within

PAIRS = [
    *itertools.product(("llama", "t5", "bert", "vt5"), ("lora", "lora_sb")),
    *itertools.product(("gemma2", "opt"), ("lora_sb",)),
    ("llama", "full"),
]


def one_by_one(model, task, rows):
    """The gradient of each row's loss, as the model itself computes it of that row alone."""
    gradients = {name: [] for name in trained(model)}
    for row in rows:
        model.zero_grad()
        if task.examples([row]):
            model(**task.training([row])).loss.backward()
        for name, parameter in trained(model).items():
            gradients[name].append(
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            )
    model.zero_grad()
    return {name: torch.stack(values) for name, values in gradients.items()}


@pytest.mark.parametrize(("kind", "adapter"), PAIRS)
def test_they_are_those_of_one_row_at_a_time(kind: str, adapter: str) -> None:
    model, task, rows = build(kind, adapter)
    expected = one_by_one(model, task, rows)
    per_row = PerRowGradients(model, task)
    per_row.check(rows)
    per_row.backward(rows)
    kept = [index for index, row in enumerate(rows) if task.examples([row])]
    moved = 0
    for name, parameter in trained(model).items():
        wanted = expected[name][kept]
        assert parameter.grad_sample.shape == wanted.shape
        scale = float(wanted.abs().max())
        assert_within(parameter.grad_sample, wanted, TOLERANCE * scale)
        moved += scale > 0
    assert moved > 0.9 * len(expected)
    if adapter == "lora_sb":  # what trains is R: its hooks saw it
        assert all("lora_R" in n or "classifier" in n for n in trained(model))


@pytest.mark.parametrize("kind", ["llama", "vt5"])
def test_a_row_does_not_depend_on_what_it_is_with(kind: str) -> None:
    model, task, rows = build(kind)
    per_row = PerRowGradients(model, task)
    per_row.backward(rows[:1])
    alone = {name: p.grad_sample[0].clone() for name, p in trained(model).items()}
    per_row.backward(rows)
    for name, parameter in trained(model).items():
        scale = float(alone[name].abs().max())
        assert_within(parameter.grad_sample[0], alone[name], TOLERANCE * scale)


def test_no_rows_and_rows_without_examples_have_no_gradients() -> None:
    model, task, rows = build("vt5")
    per_row = PerRowGradients(model, task)
    for nothing in ([], [rows[2]]):
        assert per_row.backward(nothing) == 0.0
        for parameter in trained(model).values():
            assert parameter.grad_sample.shape == (0, *parameter.shape)


def attributes(model):
    return [{*vars(part)} for part in (*model.parameters(), *model.modules())]


def test_nothing_stays_on_the_model() -> None:
    model, task, rows = build("llama")
    before = attributes(model)
    per_row = PerRowGradients(model, task)
    per_row.backward(rows)
    per_row.remove()
    assert before == attributes(model)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


# ---- what has no gradients per row is refused ----------------------------------------------


class Bare(nn.Module):
    """A linear layer of a bare parameter, read from outside by ``Reads``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.eye(64))


class Reads(nn.Module):
    """Changes hidden states by what it is told to."""

    def __init__(self, layer: nn.Module, change) -> None:
        super().__init__()
        self.layer, self.change = layer, change
        self.extra = Bare()

    def forward(self, *args, **kwargs):
        return self.change(self.layer(*args, **kwargs), self.extra)


def bare(states, extra):
    return states + states @ extra.weight


def mixing(states, extra):
    return states + states.mean(0, keepdim=True)


def changed(change):
    model, task, rows = build("llama")
    inner = model.base_model.model.model
    inner.norm = Reads(inner.norm, change)
    if change is mixing:
        inner.norm.extra.requires_grad_(False)
    return model, task, rows


@pytest.mark.parametrize("change", [bare, mixing])
def test_a_bare_parameter_and_a_layer_that_mixes_rows_are_found(change) -> None:
    model, task, rows = changed(change)
    with pytest.raises(ValueError, match=r"privacy (finds no gradient|clips are not)"):
        PerRowGradients(model, task).check(rows)


def test_batch_normalization_is_refused() -> None:
    model, task, _ = build("llama")
    model.base_model.model.model.norm = nn.BatchNorm1d(64)
    with pytest.raises(ValueError, match="BatchNorm"):
        PerRowGradients(model, task)


def test_half_precision_is_refused_with_what_to_do() -> None:
    model, task, _ = build("llama")
    next(iter(trained(model).values())).data = torch.zeros(4, 4, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="official_numerics=false"):
        PerRowGradients(model, task)


@pytest.mark.parametrize(
    ("kind", "shared"), [("t5", "relative_attention_bias"), ("bert", "position_embeddings")]
)
def test_what_is_looked_up_once_for_all_rows_cannot_be_trained(kind: str, shared: str) -> None:
    model, task, rows = build(kind, "full")
    with pytest.raises(ValueError, match=shared):
        PerRowGradients(model, task).check(rows)
    model, task, rows = build(kind, "full", f"adapter.freeze=[{shared}]")
    PerRowGradients(model, task).check(rows)
