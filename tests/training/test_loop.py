"""A client's turn: repeatable, honest about divergence, and with FedProx's gradient."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.build import open_session
from fl_app.config import compose
from fl_app.data.padding import IGNORED, pad
from fl_app.seeds import turn_seed
from fl_app.training.hooks.proximal import proximal
from fl_app.training.loop import NO_HOOKS, DivergedError, Hooks, train
from fl_app.tree import digest
from tests import small
from tests.rounding import assert_within, summed


@pytest.fixture
def here():
    here = open_session(small.DATA)
    here.adapter.set(here.model, here.theta0)
    return here


def run(here, seed=0, epochs=2, hooks=NO_HOOKS, **optimizer):
    cfg = compose(" ".join([small.DATA, *(f"optimizer.{k}={v}" for k, v in optimizer.items())]))
    here.adapter.set(here.model, here.theta0)
    rows = here.documents(0).to_list()
    turn = train(
        here.model, rows, here.task, cfg.optimizer,
        epochs=epochs, batch_size=2, seed=seed, hooks=hooks,
    )  # fmt: skip
    return turn, here.adapter.get(here.model)


def test_the_same_turn_twice_gives_the_same_bits(here) -> None:
    first, tree = run(here, seed=3)
    torch.rand(7)  # what a process did in between does not matter
    second, again = run(here, seed=3)
    assert digest(tree) == digest(again)
    assert (first.examples, first.loss) == (second.examples, second.loss)
    assert digest(run(here, seed=4)[1]) != digest(tree)


def test_training_lowers_the_loss(here) -> None:
    assert run(here, epochs=12)[0].loss < run(here, epochs=1)[0].loss


def test_examples_are_questions(here) -> None:
    rows = here.documents(0).to_list()
    assert run(here)[0].examples == sum(len(row["questions"]) for row in rows)


def test_no_rows_is_an_error(here) -> None:
    with pytest.raises(ValueError, match="no documents"):
        train(here.model, [], here.task, here.cfg.optimizer, epochs=1, batch_size=1, seed=0)


def test_divergence_is_an_error_that_says_what_to_change(here) -> None:
    with pytest.raises(DivergedError, match=r"optimizer\.lr"):
        run(here, epochs=10, lr=1e30, max_grad_norm=1e30)


def test_proximal_adds_mu_times_the_distance(here) -> None:
    model = torch.nn.Linear(3, 2)
    start = model.weight.detach().clone()
    hook = proximal(0.5, model)
    with torch.no_grad():
        model.weight.add_(1.0)
    model(torch.ones(1, 3)).sum().backward()
    plain = model.weight.grad.clone()
    hook(model)
    assert_within(model.weight.grad, plain + 0.5 * (model.weight - start), summed(2, 2.0))


def test_a_strong_proximal_term_keeps_the_model_near(here) -> None:
    def distance(tree):
        return sum(((tree[k] - here.theta0[k]) ** 2).sum() for k in tree)

    free = distance(run(here, epochs=4)[1])
    here.adapter.set(here.model, here.theta0)
    hook = proximal(100.0, here.model)
    assert distance(run(here, epochs=4, hooks=Hooks(gradients=[hook]))[1]) < 0.7 * free


def test_a_method_learns_the_number_of_steps_before_the_first(here) -> None:
    seen: list[object] = []
    hooks = Hooks(
        starts=[lambda model, steps: seen.append(steps)],
        gradients=[lambda model: seen.append("gradient")],
        steps=[lambda model, rate: seen.append("step")],
    )
    run(here, epochs=2, hooks=hooks)
    steps = seen[0]
    assert isinstance(steps, int)
    assert seen[1:] == ["gradient", "step"] * steps


class Regression(torch.nn.Module):
    """The mean squared error over the labels that count, as a model's own loss is a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0, dtype=torch.float64))

    def forward(self, x, labels):
        counts = labels != IGNORED
        error = (x @ self.weight)[:, None] - labels
        return SimpleNamespace(loss=error[counts].square().mean())


class Numbers:
    """Rows of inputs, and of as many labels as each has."""

    def training(self, rows):
        return {
            "x": torch.tensor([row["x"] for row in rows], dtype=torch.float64),
            "labels": pad([row["labels"] for row in rows], IGNORED),
        }

    def examples(self, rows) -> int:
        return len(rows)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=11),
    batch=st.integers(1, 4),
    accumulation=st.integers(2, 4),
)
def test_accumulated_batches_are_one_large_batch(lengths, batch: int, accumulation: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "x": torch.rand(3, generator=generator).tolist(),
            "labels": torch.randint(5, (length,), generator=generator).tolist(),
        }
        for length in lengths
    ]
    cfg = compose("optimizer.lr=0.1 optimizer.eps=1").optimizer

    def trained(batch_size: int, gradient_accumulation: int):
        model = Regression()
        turn = train(
            model, rows, Numbers(), cfg, epochs=2, batch_size=batch_size, seed=1,
            gradient_accumulation=gradient_accumulation,
        )  # fmt: skip
        return model.weight.detach(), turn.loss

    large, loss = trained(batch * accumulation, 1)
    accumulated, same = trained(batch, accumulation)
    assert not torch.equal(large, Regression().weight)
    assert_within(accumulated, large, 1e-9)
    assert same == pytest.approx(loss, rel=1e-9)


def test_turn_seeds_do_not_collide() -> None:
    seeds = {turn_seed(s, r, p) for s in range(5) for r in range(20) for p in range(10)}
    assert len(seeds) == 1000
