"""A private turn: clipping per row, noise of the right size, Poisson samples, repeatable."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_app.adapters import ADAPTERS
from fl_app.privacy import dp_sgd
from fl_app.privacy.budget import Mechanism, mechanism
from fl_app.privacy.clipped_sum import ClippedSum
from fl_app.privacy.keystream import KeyStream, seeded_key
from fl_app.training.hooks.proximal import proximal
from fl_app.training.loop import Hooks
from fl_app.tree import digest
from tests.private import build, configured, trained


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


def test_without_noise_the_gradient_is_the_clipped_sum_over_the_expected_rows(recorded) -> None:
    model, task, rows = build("vt5")
    # All rows in every sample, in memory two at a time.
    values = {"batch_size": 2, "gradient_accumulation": 4, "privacy__noise_multiplier": 1e-9}
    turn(model, task, rows, configured("vt5", privacy__max_grad_norm=0.5, **values))
    (step,) = recorded[0].steps
    clipped = ClippedSum(model.train(), task, 0.5, bytes(32))
    for row in rows:
        clipped.add(row, 0)
    expected = [values.float() / len(rows) for values in clipped.sums.values()]
    for got, wanted in zip(step, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


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
    cfg = configured("llama", privacy__noise="seeded")
    turn(model, task, rows, cfg)
    hook = proximal(1.0, model)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(1.0)
    before = copy.deepcopy(model.state_dict())
    turn(model, task, rows, cfg)
    told: list[object] = []
    starts = [lambda model, steps: told.append(steps)]
    epochs = [lambda model: told.append("epoch")]
    steps = [lambda model, rate: told.append("step")]
    turn(model, task, rows, cfg, hooks=Hooks(starts, [hook], epochs=epochs, steps=steps))
    done = len(recorded[2].steps)
    assert told[:2] == [done, "epoch"]
    assert told.count("step") == done
    per_epoch = -(-len(rows) // cfg.batch_size)
    assert told.count("epoch") == -(-done // per_epoch)
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
    samples = list(dp_sgd.poisson(rows, asked, KeyStream(seeded_key(seed))))
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

    seeded = configured(kind, adapter, batch_size=2, privacy__noise="seeded")
    secret = configured(kind, adapter, batch_size=2)
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


def test_every_bit_of_a_secret_key_counts(monkeypatch) -> None:
    """A generator that keeps 32 bits of its seed can be found by trying them all."""
    model, task, rows = build("llama")
    start = ADAPTERS["lora_sb"].get(model)
    keys = [bytes(32), *(bytes(i) + b"\x01" + bytes(31 - i) for i in range(32))]
    asked = []

    def noise_of(key: bytes) -> bytes:
        monkeypatch.setattr(dp_sgd, "secret_key", lambda: asked.append(key) or key)
        ADAPTERS["lora_sb"].set(model, start)
        turn(model, task, rows[:1], configured("llama", privacy__noise_multiplier=1e6))
        return digest(ADAPTERS["lora_sb"].get(model))

    found = {noise_of(key) for key in keys}
    assert asked == keys
    assert len(found) == len(keys)
    assert noise_of(keys[0]) in found


def test_no_rows_are_an_error_and_what_is_not_finite_is_left_out() -> None:
    model, task, rows = build("llama")
    with pytest.raises(ValueError, match="no documents"):
        turn(model, task, [], configured("llama"))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data.fill_(math.inf)
    turn(model, task, rows, configured("llama", batch_size=4))
    assert all(torch.isfinite(parameter).all() for parameter in trained(model).values())
