"""A private turn: clipping per row, noise of the right size, Poisson samples, repeatable."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from opacus.optimizers import DPOptimizer

from fl_app.adapters import ADAPTERS
from fl_app.config import compose
from fl_app.privacy import dp_sgd
from fl_app.privacy.budget import Mechanism, mechanism
from fl_app.privacy.per_row import TOLERANCE, PerRowGradients
from fl_app.training import DivergedError, proximal
from fl_app.tree import digest
from tests.private import asks, build, documents, overrides, trained
from tests.rounding import apart, summed

DP = "privacy=dp_sgd privacy.epsilon=null privacy.noise_multiplier=1.0 local_epochs=1"


def configured(kind: str, adapter: str = "lora_sb", **values):
    cfg = compose(overrides(kind, adapter, DP))
    return OmegaConf.merge(cfg, OmegaConf.from_dotlist(
        [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    ))  # fmt: skip


class Recorder(torch.optim.SGD):
    """Keeps the gradients of every step, and leaves the model where it is."""

    def __init__(self, parameters, cfg) -> None:
        super().__init__(parameters, lr=0.0)
        self.steps: list[list[torch.Tensor]] = []

    def step(self, closure=None):
        self.steps.append([p.grad.clone() for g in self.param_groups for p in g["params"]])


@pytest.fixture
def recorded(monkeypatch):
    """The optimizers that turns have used, each with the gradients that it was given."""
    made: list[Recorder] = []

    def build(parameters, cfg):
        made.append(Recorder(parameters, cfg))
        return made[-1]

    monkeypatch.setitem(dp_sgd.optimizers.OPTIMIZERS, "adamw", build)
    return made


def length(gradients) -> float:
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))


def turn(model, task, rows, cfg, seed=0, **kwargs):
    dp_sgd.train(model, rows, task, cfg, seed=seed, **kwargs)


# ---- clipping ---------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), max_size=4), st.floats(1e-3, 10.0))
def test_no_row_changes_the_sum_by_more_than_the_clip(questions: list[int], clip: float) -> None:
    """A document with ever so many questions counts as one."""
    model, task, _ = vt5()
    rows = [asks(row, count) for row, count in zip(documents(), questions, strict=False)]
    sums = [clipped_sum(model, task, some, clip) for some in (rows, rows[:-1])]
    change = length(a - b for a, b in zip(*sums, strict=True))
    rounding = summed(sum(g.numel() for g in sums[0]))  # of a row's norm
    assert change <= clip * (1 + rounding)
    assert length(sums[0]) <= clip * len(rows) * (1 + rounding)


def vt5(made=[]):  # noqa: B006 (built once)
    if not made:
        made.append(build("vt5"))
    return made[0]


def clipped_sum(model, task, rows, clip: float) -> list[torch.Tensor]:
    """What a step adds its noise to."""
    private = DPOptimizer(
        torch.optim.SGD(trained(model).values(), lr=0.0),
        noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1,
    )  # fmt: skip
    per_row = PerRowGradients(model.train(), task)
    try:
        per_row.backward(rows)
        private.clip_and_accumulate()
        return [p.summed_grad.clone() for p in trained(model).values()]
    finally:
        per_row.remove()


def test_without_noise_the_gradient_is_the_clipped_sum_over_the_expected_rows(recorded) -> None:
    model, task, rows = build("vt5")
    # All rows in every sample, in memory two at a time.
    values = {"batch_size": 2, "gradient_accumulation": 4, "privacy__noise_multiplier": 1e-9}
    turn(model, task, rows, configured("vt5", privacy__max_grad_norm=0.5, **values))
    (step,) = recorded[0].steps
    expected = [g / len(rows) for g in clipped_sum(model, task, rows, 0.5)]
    got, wanted = (torch.cat([g.flatten() for g in every]) for every in (step, expected))
    assert apart(got, wanted) < TOLERANCE  # of the same rows in batches of another size


# ---- noise ------------------------------------------------------------------------------------


def test_noise_has_the_size_that_was_asked_for_once_a_step(recorded) -> None:
    """Over the clip, so that the rows are lost in it: an empty sample has it all the same."""
    model, task, rows = build("llama")
    noise, clip = 1e6, 1e-3
    cfg = configured(
        "llama", privacy__noise_multiplier=noise, privacy__max_grad_norm=clip, batch_size=1,
        local_epochs=10,
    )  # fmt: skip
    turn(model, task, rows, cfg)
    asked = mechanism(cfg, len(rows))
    steps = recorded[0].steps
    assert len(steps) == asked.steps == 40
    values = torch.cat([g.flatten() for step in steps for g in step]).double()
    std = noise * clip / asked.expected_rows
    assert float(values.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * len(values)))
    assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
    first, second = (torch.cat([g.flatten() for g in step]) for step in steps[:2])
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.2


def test_an_empty_sample_is_a_step_of_noise_alone(recorded, monkeypatch) -> None:
    model, task, rows = build("vt5")
    monkeypatch.setattr(dp_sgd, "poisson", lambda *_: iter([[], [2]]))  # row 2 has no question
    turn(model, task, rows, configured("vt5", privacy__max_grad_norm=1.0))
    for step in recorded[0].steps:
        values = torch.cat([g.flatten() for g in step])
        assert float(values.std()) == pytest.approx(1 / 5, rel=0.1)
    assert len(recorded[0].steps) == 2


def test_what_hooks_add_is_added_after_the_noise(recorded) -> None:
    model, task, rows = build("llama")
    cfg = configured("llama")
    turn(model, task, rows, cfg)
    hook = proximal(1.0, model)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(1.0)
    before = copy.deepcopy(model.state_dict())
    turn(model, task, rows, cfg)
    turn(model, task, rows, cfg, hooks=[hook])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for without, pulled in zip(recorded[1].steps[0], recorded[2].steps[0], strict=True):
        torch.testing.assert_close(pulled - without, torch.ones_like(without), rtol=0, atol=1e-3)


# ---- samples ------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.floats(0.02, 1.0), st.integers(0, 2**62))
def test_every_row_is_in_a_sample_at_the_rate_and_on_its_own(
    rows: int, rate: float, seed: int
) -> None:
    steps = 400
    asked = Mechanism(1.0, 1.0, rate, rate * rows, steps, 0.1)
    samples = list(dp_sgd.poisson(rows, asked, torch.Generator().manual_seed(seed)))
    assert len(samples) == steps
    assert all(sample == sorted({*sample}) for sample in samples)
    drawn = np.zeros((steps, rows))
    for step, sample in enumerate(samples):
        drawn[step, sample] = 1
    spread = math.sqrt(rate * (1 - rate) / (steps * rows))
    assert abs(drawn.mean() - rate) <= 6 * spread + 1e-9
    if rate < 0.95 and rows > 20:  # sizes vary as those of independent draws do
        sizes = drawn.sum(1).var() / (rows * rate * (1 - rate))
        assert 0.6 < sizes < 1.5


# ---- a turn ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "adapter"), [("vt5", "lora_sb"), ("bert", "lora")])
def test_a_seed_repeats_a_turn_and_secret_noise_is_never_the_same(kind: str, adapter: str) -> None:
    model, task, rows = build(kind, adapter)
    get, put = ADAPTERS[adapter].get, ADAPTERS[adapter].set
    start = get(model)

    def trained_with(cfg, seed):
        put(model, start)
        torch.rand(3)  # what the process drew in between does not matter
        turn(model, task, rows, cfg, seed)
        assert not model.training
        return digest(get(model))

    seeded = configured(kind, adapter, batch_size=2)
    secret = configured(kind, adapter, batch_size=2, privacy__noise="secret")
    assert trained_with(seeded, 3) == trained_with(seeded, 3) != trained_with(seeded, 4)
    assert trained_with(secret, 3) != trained_with(secret, 3)


def test_a_turn_learns_when_the_noise_is_small() -> None:
    model, task, rows = build("llama", "lora")
    cfg = configured(
        "llama", "lora", privacy__noise_multiplier=0.01, batch_size=4, local_epochs=30,
        optimizer__lr=0.01,
    )  # fmt: skip
    batch = task.training(rows)
    before = model(**batch).loss.item()
    turn(model, task, rows, cfg)
    assert model(**batch).loss.item() < 0.7 * before


def test_no_rows_and_a_loss_that_is_not_finite_are_errors() -> None:
    model, task, rows = build("llama")
    with pytest.raises(ValueError, match="no documents"):
        turn(model, task, [], configured("llama"))
    next(iter(trained(model).values())).data.fill_(math.inf)
    with pytest.raises((DivergedError, ValueError)):
        turn(model, task, rows, configured("llama", batch_size=4))
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
