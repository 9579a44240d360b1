"""Quantization-aware hooks: what the loss sees, what its gradient moves, and where it ends."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fl_app.codecs import from_spec
from fl_app.training.hooks.quantization import (
    Group,
    QuantizationAware,
    sign,
    step_for,
    ternary,
    uniform,
)
from tests.rounding import assert_within, summed

VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-3, 3, width=32).filter(lambda x: x == 0 or abs(x) > 2**-20),
)
KINDS = {
    "uniform": lambda x: uniform(step_for(x, 0.4, None)),
    "bits": lambda x: uniform(step_for(x, None, 4)),
    "adaptive": lambda x: uniform(step_for(x, None, None)),
    "ternary": ternary,
    "sign": sign,
}
GRID = {"id": "uniform", "centroid": False, "grid": True, "scope": "tensor"}
CODECS = {
    "uniform": {**GRID, "error": 0.4},
    "bits": {**GRID, "bits": 4},
    "adaptive": {**GRID, "adaptive": True},
    "ternary": {"id": "ternary"},
    "sign": {"id": "sign"},
}


def on_grid(kind: str, x: np.ndarray) -> np.ndarray:
    return KINDS[kind](x)(torch.from_numpy(x)).numpy().astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@given(x=VALUES)
def test_a_value_on_the_grid_stays(kind: str, x: np.ndarray) -> None:
    rounded = KINDS[kind](x)
    once = rounded(torch.from_numpy(x))
    assert torch.equal(rounded(once), once)


@pytest.mark.parametrize("kind", KINDS)
@given(x=VALUES, offset=st.floats(-1, 1, width=32))
def test_the_codec_loses_nothing_of_what_is_on_the_grid(
    kind: str, x: np.ndarray, offset: float
) -> None:
    """Also where a reference was added, which `delta` takes away again."""
    values = on_grid(kind, x)
    reference = np.full_like(x, np.float32(offset) if kind == "uniform" else 0)
    theta = {"x": reference + values}
    codec = from_spec({"id": "chain", "links": [{"id": "delta"}, CODECS[kind]]})
    wire, _ = codec.encode(theta, codec.init({"x": reference}), {"x": reference})
    decoded = codec.decode(wire, {"x": reference})["x"]
    if len(np.unique(np.abs(values[values != 0]))) <= 1 or kind != "uniform":
        assert np.array_equal(decoded, theta["x"])
    else:  # a few values may lie on a grid of which the least level is not among them
        step = step_for(x, 0.4, None)
        assert_within(decoded, theta["x"], 2.0**-8 * step + summed(2, 4.0))


@given(x=VALUES)
def test_a_grid_of_an_error_has_that_error(x: np.ndarray) -> None:
    lost = np.linalg.norm(on_grid("uniform", x).astype(np.float64) - x)
    assert lost <= 0.4 * np.linalg.norm(x.astype(np.float64)) * (1 + 1e-6)


class Line(torch.nn.Module):
    """A weight, and a loss whose gradient is known: that of ``g . w`` is g."""

    def __init__(self, start: np.ndarray) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.from_numpy(start.copy()))
        self.seen: list[torch.Tensor] = []

    def forward(self, g: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.w.detach().clone())
        return (self.w * g).sum()


def trained(aware: QuantizationAware, line: Line, gradients: torch.Tensor, lr: float, epoch=4):
    """Steps of plain gradient descent as the loop does them; return theta before each hook."""
    hooks = aware.hooks()
    optimizer = torch.optim.SGD(line.parameters(), lr=lr)
    for begin in hooks.starts:
        begin(line, len(gradients))
    exact = []
    for number, g in enumerate(gradients):
        if number % epoch == 0:
            for hook in hooks.epochs:
                hook(line)
        line(g).backward()
        for hook in hooks.gradients:
            hook(line)
        exact.append(line.w.detach().clone())
        optimizer.step()
        optimizer.zero_grad()
        for hook in hooks.steps:
            hook(line, lr)
    return exact


def problem(n: int = 50, steps: int = 12):
    rng = np.random.default_rng(1)
    start = rng.standard_normal(n).astype(np.float32)
    gradients = torch.from_numpy(rng.standard_normal((steps, n)).astype(np.float32))
    return start, gradients


def fit(x: np.ndarray):
    return uniform(step_for(x, 0.5, None))


def test_the_gradient_on_the_grid_moves_the_exact_weights() -> None:
    """Straight through: theta is what plain descent has, whatever the model computed with."""
    start, gradients = problem()
    line = Line(start)
    aware = QuantizationAware({"w": start}, [Group(["w"], fit)], start=0.25)
    exact = trained(aware, line, gradients, lr=0.1)
    expected = start.astype(np.float64)
    for number, theta in enumerate(exact):
        assert_within(theta, expected, summed(3 * number + 1, 4.0))
        expected = expected - 0.1 * gradients[number].double().numpy()


def test_the_loss_sees_the_grid_from_the_share_of_steps_on_and_the_end_is_on_it() -> None:
    start, gradients = problem()
    line = Line(start)
    aware = QuantizationAware({"w": start}, [Group(["w"], fit)], start=0.25)
    exact = trained(aware, line, gradients, lr=0.1)
    for number, (seen, theta) in enumerate(zip(line.seen, exact, strict=True)):
        assert torch.equal(seen, theta) == (number < 3)
    for seen in [*line.seen[3:], line.w.detach()]:
        change = (seen - torch.from_numpy(start)).numpy()
        levels = np.unique(np.abs(change[np.abs(change) > 1e-6]))
        steps = levels / levels.min()
        assert_within(steps, np.rint(steps), 1e-4)


def test_the_grid_is_found_before_each_epoch_and_is_fixed_within() -> None:
    start, gradients = problem(steps=12)
    found: list[float] = []

    def watched(x: np.ndarray):
        found.append(step_for(x, 0.5, None))
        return uniform(found[-1])

    aware = QuantizationAware({"w": start}, [Group(["w"], watched)], start=0.5)
    trained(aware, Line(start), gradients, lr=0.1, epoch=4)
    assert len(found) == 2  # in the second epoch's middle, and before the third
    assert len({*found}) == 2


@given(x=VALUES, weight=st.floats(0, 5, width=32), rate=st.floats(0, 0.5, width=32))
def test_the_shrink_is_the_proximal_step_of_l1(x: np.ndarray, weight: float, rate: float) -> None:
    """The minimum of |z - x|^2 / 2 + rate weight |z|_1, value by value."""
    reference = np.zeros_like(x)
    line = Line(x)
    aware = QuantizationAware({"w": reference}, [], start=0.9, shrink={"w": weight})
    for begin in aware.hooks().starts:
        begin(line, 100)
    for hook in aware.hooks().steps:
        hook(line, rate)
    z = line.w.detach().double().numpy()
    t = float(rate) * float(weight)
    assert_within(z, np.sign(x) * np.maximum(np.abs(x.astype(np.float64)) - t, 0), summed(4, 6.0))
    for other in (z + 1e-2, z - 1e-2, 0 * z):
        worse = 0.5 * (other - x) ** 2 + t * np.abs(other)
        assert (0.5 * (z - x) ** 2 + t * np.abs(z) <= worse + 1e-5).all()


def test_tensors_of_a_group_share_a_grid() -> None:
    start = {"a": np.float32([1, 0]), "b": np.float32([[4.0]])}
    model = torch.nn.Module()
    for name, values in start.items():
        model.register_parameter(name, torch.nn.Parameter(torch.from_numpy(values.copy())))
    zeros = {name: np.zeros_like(x) for name, x in start.items()}
    seen: list[np.ndarray] = []

    def watched(x: np.ndarray):
        seen.append(x)
        return uniform(2.0)

    hooks = QuantizationAware(zeros, [Group(["a", "b"], watched)], start=0.0).hooks()
    hooks.starts[0](model, 1)
    hooks.epochs[0](model)
    assert np.array_equal(seen[0], np.float32([1, 0, 4]))
    assert torch.equal(model.b, torch.tensor([[4.0]]))
    assert torch.equal(model.a, torch.zeros(2))
    hooks.gradients[0](model)
    assert torch.equal(model.a, torch.tensor([1.0, 0.0]))
