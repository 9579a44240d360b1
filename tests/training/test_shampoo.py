"""Shampoo's laws: what its step is, on which scale, and what it keeps between steps.

In float64, so that rounding is not what is measured; what is special in float32 says so.
"""

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_app.training.shampoo import Shampoo, blocks, power
from tests.rounding import assert_within

PLAIN = {
    "lr": 1.0,
    "betas": (0.0, 0.999),
    "eps": 1e-6,
    "decay": 1.0,
    "exponent": None,
    "root_interval": 1,
    "block_size": 1024,
    "graft": "none",
    "weight_decay": 0.0,
}
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32)


@pytest.fixture(autouse=True, scope="module")
def doubles() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(seed: int, n: int) -> Tensor:
    return torch.linalg.qr(normal(seed, n, n))[0]


def with_singular_values(seed: int, m: int, n: int, low: float = 0.1) -> Tensor:
    """A matrix whose singular values lie between ``low`` and 1."""
    k = min(m, n)
    values = torch.linspace(low, 1.0, k)
    return orthogonal(seed, m)[:, :k] * values @ orthogonal(seed + 1, n)[:, :k].T


def updates(gradients: list[Tensor], make=Shampoo, start: Tensor | None = None, **options):
    """What every step takes off a weight (times 1/lr: the rate is 1)."""
    weight = torch.nn.Parameter(torch.zeros_like(gradients[0]) if start is None else start.clone())
    optimizer = make([weight], **(PLAIN | options if make is Shampoo else options))
    taken = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        taken.append(before - weight.detach())
    return taken


def walk(seed: int, *shape: int, steps: int = 5) -> list[Tensor]:
    return [normal(seed + i, *shape) for i in range(steps)]


# ---- the step ---------------------------------------------------------------------------------


@given(shapes, seeds, st.sampled_from([0.5, 0.99, 1.0]))
def test_the_first_step_has_all_singular_values_one(shape, seed: int, decay: float) -> None:
    gradient = with_singular_values(seed, *shape)
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    (step,) = updates([gradient], eps=1e-12, decay=decay, betas=(0.9, 0.9))
    assert_within(step, u @ vt, 1e-9)


def test_it_is_algorithm_1() -> None:
    """Gupta et al. 2018, by another decomposition."""
    gradients = walk(3, 4, 6, steps=6)
    left, right = torch.zeros(4, 4), torch.zeros(6, 6)
    for gradient, step in zip(gradients, updates(gradients, eps=1e-4), strict=True):
        left, right = left + gradient @ gradient.T, right + gradient.T @ gradient
        roots = []
        for s in (left, right):
            u, values, _ = torch.linalg.svd(s + 1e-4 * s.diagonal().mean() * torch.eye(len(s)))
            roots.append(u @ torch.diag(values**-0.25) @ u.T)
        assert_within(step, roots[0] @ gradient @ roots[1], 1e-9)


def test_a_tensor_of_order_3_takes_the_power_of_a_sixth_on_every_axis() -> None:
    g = normal(0, 3, 4, 5)
    (step,) = updates([g], eps=1e-2)
    roots = []
    for axis in range(3):
        rows = g.movedim(axis, 0).reshape(g.shape[axis], -1)
        s = rows @ rows.T
        s += 1e-2 * s.diagonal().mean() * torch.eye(len(s))
        values, vectors = torch.linalg.eigh(s)
        roots.append(vectors @ torch.diag(values ** (-1 / 6)) @ vectors.T)
    expected = torch.einsum("abc,ai,bj,ck->ijk", g, *roots)
    assert_within(step, expected, 1e-9)


def test_a_vector_is_diagonal_adagrad() -> None:
    gradients = [*walk(0, 7), torch.zeros(7)]
    steps = updates(gradients, eps=0.0, root_interval=3)
    total = torch.zeros(7)
    for gradient, step in zip(gradients, steps, strict=True):
        total += gradient.square()
        assert_within(step, gradient / total.sqrt(), 1e-9)


@given(shapes, seeds)
def test_orthogonal_equivariance(shape, seed: int) -> None:
    """step(P G Q) = P step(G) Q: no direction of a matrix's rows or columns is special."""
    m, n = shape
    p, q = orthogonal(seed + 50, m), orthogonal(seed + 51, n)
    gradients = walk(seed, m, n, steps=3)
    turned = updates([p @ g @ q for g in gradients], eps=1e-3)
    for step, expected in zip(turned, updates(gradients, eps=1e-3), strict=True):
        assert_within(step, p @ expected @ q, 1e-9)


@given(shapes, seeds, st.sampled_from([1e-12, 1e-6, 1e6]), st.sampled_from([1, 3]))
def test_the_scale_of_gradients_does_not_matter(shape, seed, scale, root_interval) -> None:
    gradients = walk(seed, *shape)
    steps = updates([g * scale for g in gradients], eps=1e-3, root_interval=root_interval)
    expected = updates(gradients, eps=1e-3, root_interval=root_interval)
    for step, other in zip(steps, expected, strict=True):
        assert_within(step, other, 1e-9)


@given(shapes, seeds, st.sampled_from([0.5, 0.99, 1.0]))
def test_fresh_roots_bound_a_step_by_one(shape, seed: int, decay: float) -> None:
    """L >= G G^T and R >= G^T G, so that no singular value of L^-1/4 G R^-1/4 is above 1."""
    for step in updates(walk(seed, *shape), decay=decay):
        assert torch.linalg.matrix_norm(step, ord=2) < 1 + 1e-9


# ---- statistics and roots -----------------------------------------------------------------------


@given(shapes, seeds, st.sampled_from([-0.25, -0.5, -1.0]))
def test_the_power_undoes_the_statistic(shape, seed: int, exponent: float) -> None:
    m, n = shape
    g = with_singular_values(seed, m, n)
    statistic, eps = g @ g.T, 1e-2
    root = power(statistic, exponent, eps)
    assert_within(root, root.T, 1e-12 * float(root.abs().max()))
    assert torch.linalg.eigvalsh(root).min() > 0
    added = statistic + eps * statistic.diagonal().mean() * torch.eye(m)
    whole = torch.linalg.matrix_power(root, round(-1 / exponent))
    assert_within(whole @ added, torch.eye(m), 1e-9)


@pytest.mark.parametrize("statistic", [torch.ones(3, 3), torch.tensor([1.0, 0.0])])
def test_a_singular_statistic_has_a_finite_power_without_eps(statistic: Tensor) -> None:
    assert bool(power(statistic, -0.5, 0.0).isfinite().all())


@given(st.integers(1, 9), seeds)
def test_a_diagonal_has_the_power_of_its_matrix(n: int, seed: int) -> None:
    diagonal = normal(seed, n).square() + 0.1
    matrix = power(diagonal.diag(), -0.5, 1e-3)
    assert_within(power(diagonal, -0.5, 1e-3), matrix.diagonal(), 1e-12 * float(matrix.max()))


@given(shapes, seeds, st.sampled_from([0.0, 0.9, 1.0]))
def test_statistics_stay_symmetric_and_positive(shape, seed: int, decay: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Shampoo([weight], **PLAIN | {"decay": decay})
    for gradient in walk(seed, *shape):
        weight.grad = gradient
        optimizer.step()
    for statistic in optimizer.state[weight]["statistics"][0]:
        rounding = 1e-12 * float(statistic.trace())
        assert_within(statistic, statistic.T, rounding)
        assert torch.linalg.eigvalsh(statistic).min() > -rounding
    for root in optimizer.state[weight]["roots"][0]:
        assert torch.linalg.eigvalsh(root).min() > 0


def test_roots_are_renewed_at_the_first_and_at_every_qth_step_after_it() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = Shampoo([weight], **PLAIN | {"root_interval": 3})
    renewed, last = [], None
    for step, gradient in enumerate(walk(0, 3, 4, steps=8), start=1):
        weight.grad = gradient
        optimizer.step()
        root = optimizer.state[weight]["roots"][0][0]
        if last is None or not torch.equal(root, last):
            renewed.append(step)
        last = root.clone()
    assert renewed == [1, 4, 7]


# ---- grafting and blocks ------------------------------------------------------------------------


def adamw(params, **options):
    return torch.optim.AdamW(params, lr=1.0, eps=1e-8, **options)


@given(shapes, seeds, st.sampled_from([0.0, 0.9]), st.sampled_from([1, 3]))
def test_a_grafted_step_has_the_length_of_the_other_optimizers(shape, seed, beta1, q) -> None:
    gradients = walk(seed, *shape)
    bases = {
        "adamw": updates(gradients, make=adamw, betas=(beta1, 0.99), weight_decay=0.0),
        "sgd": [],
    }
    mean = torch.zeros(shape)
    for t, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        bases["sgd"].append(mean / (1 - beta1**t))
    for graft, base in bases.items():
        steps = updates(gradients, graft=graft, betas=(beta1, 0.99), root_interval=q)
        for step, expected in zip(steps, base, strict=True):
            assert float(step.norm()) == pytest.approx(float(expected.norm()), rel=1e-9)


@given(shapes, seeds, st.sampled_from(["sgd", "none"]))
def test_with_identities_for_roots_it_is_sgd(shape, seed: int, graft: str) -> None:
    """With bias-corrected momentum and decoupled weight decay; S^0 = I."""
    gradients, start = walk(seed, *shape), normal(seed + 9, *shape)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1, "exponent": 0.0, "start": start}
    mean, weight = torch.zeros(shape), start
    for t, step in enumerate(updates(gradients, graft=graft, **options), start=1):
        mean = 0.9 * mean + 0.1 * gradients[t - 1]
        expected = 0.1 * weight + mean / (1 - 0.9**t)
        weight = weight - expected
        assert_within(step, expected, 1e-9)


@given(seeds, st.integers(1, 5))
def test_the_length_of_adamws_step_on_a_single_weight_is_adamws_step(seed: int, steps: int) -> None:
    """There is but one direction: the whole step is AdamW's, weight decay included."""
    gradients, start = walk(seed, 1, 1, steps=steps), normal(seed + 9, 1, 1)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1, "start": start}
    expected = updates(gradients, make=adamw, **options)
    for step, other in zip(updates(gradients, graft="adamw", **options), expected, strict=True):
        assert_within(step, other, 1e-9)


@given(st.integers(1, 9), seeds)
def test_statistics_of_the_identity_leave_sgd(n: int, seed: int) -> None:
    """An orthogonal gradient has L = R = I, and Shampoo's step is the gradient's."""
    gradient = orthogonal(seed, n)
    (step,) = updates([gradient], eps=1e-12)
    assert_within(step, gradient, 1e-9)


@pytest.mark.parametrize("graft", ["adamw", "sgd", "none"])
@pytest.mark.parametrize("shape", [(7,), (7, 5), (3, 8), (5, 4, 7)])
def test_blocks_are_tensors_of_their_own(shape, graft: str) -> None:
    gradients = walk(1, *shape)
    options = {"graft": graft, "betas": (0.9, 0.99), "root_interval": 2}
    whole = updates(gradients, block_size=3, **options)
    parts = [blocks(g, 3) for g in gradients]
    assert all(max(part.shape) <= 3 for part in parts[0])
    for i in range(len(parts[0])):
        alone = updates([p[i] for p in parts], **options)
        for step, expected in zip(whole, alone, strict=True):
            assert_within(blocks(step, 3)[i], expected, 1e-9)


@given(shapes, seeds, st.integers(1, 12))
def test_blocks_cover_a_tensor_once(shape, seed: int, size: int) -> None:
    tensor = torch.zeros(shape)
    for block in blocks(tensor, size):
        block += 1
    assert bool((tensor == 1).all())


def test_a_scalar_and_a_single_element_are_trained() -> None:
    for gradient in (torch.tensor(-3.0), torch.tensor([-3.0]), torch.tensor([[-3.0]])):
        (step,) = updates([gradient])
        assert_within(step, torch.full_like(gradient, -1.0), PLAIN["eps"])


# ---- what must not happen -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_gradient_that_is_not_finite_is_an_error_and_changes_nothing(bad: float) -> None:
    weights = [torch.nn.Parameter(normal(i, 3, 4)) for i in range(2)]
    optimizer = Shampoo(weights, **PLAIN)
    for weight in weights:
        weight.grad = normal(5, 3, 4)
    optimizer.step()
    before = copy.deepcopy((optimizer.state_dict()["state"], [w.detach() for w in weights]))
    weights[1].grad[0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"1 of 2 gradients.*optimizer\.lr"):
        optimizer.step()
    after = (optimizer.state_dict()["state"], [w.detach() for w in weights])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("graft", ["adamw", "sgd", "none"])
@given(shape=shapes, seed=seeds, zeros=st.integers(1, 4))
def test_zero_gradients_do_nothing_and_are_forgotten(graft, shape, seed, zeros) -> None:
    """LoRA's A has none but zero gradients while B is zero."""
    gradients = walk(seed, *shape, steps=3)
    options = {"graft": graft, "betas": (0.0, 0.0), "eps": 1e-3}
    steps = updates([torch.zeros(shape)] * zeros + gradients, **options)
    assert not any(step.any() for step in steps[:zeros])
    for step, expected in zip(steps[zeros:], updates(gradients, **options), strict=True):
        assert_within(step, expected, 1e-9)


@pytest.mark.parametrize("graft", ["adamw", "none"])
def test_a_state_that_was_saved_goes_on_as_if_it_had_not_been(graft: str) -> None:
    gradients = walk(0, 5, 7, steps=8)
    options = PLAIN | {"graft": graft, "betas": (0.9, 0.99), "root_interval": 3, "block_size": 4}
    weights = [torch.nn.Parameter(torch.zeros(5, 7)) for _ in range(2)]
    first, second = (Shampoo([w], **options) for w in weights)
    for gradient in gradients[:4]:
        weights[0].grad = gradient
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    weights[1].data.copy_(weights[0].data)
    for gradient in gradients[4:]:
        for weight, optimizer in zip(weights, (first, second), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)


# ---- LoRA -------------------------------------------------------------------------------------


def lora_steps(**options) -> dict[str, list[float]]:
    """Fit B A with B = 0 to a target for six steps; return the factors' step lengths, by the rate.

    Rank 2 in a 32 x 24 matrix: the statistic of a long axis has a rank of 2 at first.
    """
    target, inputs = normal(0, 32, 24), normal(1, 24, 24)
    factors = {"A": normal(2, 2, 24) / 24**0.5, "B": torch.zeros(32, 2)}
    weights = {k: torch.nn.Parameter(v) for k, v in factors.items()}
    optimizer = Shampoo(weights.values(), **PLAIN | {"lr": 1e-2} | options)
    lengths: dict[str, list[float]] = {"A": [], "B": []}
    for i in range(6):
        columns = inputs[:, 4 * i : 4 * i + 4]
        loss = ((weights["B"] @ weights["A"] - target) @ columns).square().mean()
        optimizer.zero_grad()
        loss.backward()
        before = {k: w.detach().clone() for k, w in weights.items()}
        optimizer.step()
        for k, w in weights.items():
            lengths[k].append(float((w.detach() - before[k]).norm()) / 1e-2)
    return lengths


def test_lora_blows_up_by_roots_that_were_taken_from_its_first_gradients() -> None:
    """The failure of plain Shampoo, and what mends it.

    A's first gradient comes at the second step and is tiny. Roots of it that are kept meet larger
    gradients, and directions in which the statistic has next to nothing. Roots taken anew bound a
    step by the square root of the rank, and grafting gives it AdamW's length.
    """
    kept = lora_steps(root_interval=10)
    anew = lora_steps(root_interval=1)
    grafted = lora_steps(root_interval=10, graft="adamw")
    assert kept["A"][0] == anew["A"][0] == grafted["A"][0] == 0.0
    assert max(kept["A"][1:3]) > 100 * max(anew["A"])
    assert max(kept["B"]) > 5 * max(anew["B"])
    assert max(anew["A"] + anew["B"]) < 1.01 * 2**0.5
    assert max(grafted["A"]) < 2 * 48**0.5  # one for every weight, more after a zero
    assert max(grafted["B"]) < 1.5 * 64**0.5


def test_an_unknown_graft_is_refused() -> None:
    with pytest.raises(ValueError, match="adamw"):
        Shampoo([torch.nn.Parameter(torch.zeros(2))], **PLAIN | {"graft": "adam"})
