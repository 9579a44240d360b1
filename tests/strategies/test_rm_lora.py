"""RM-LoRA: the penalty, the masks, and what is sent of a round's mask."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import EVERYONE
from fl_app.config import ConfigError, compose
from fl_app.faults import FaultError
from fl_app.preflight import check
from fl_app.training.hooks.mask import kept_still, masked
from fl_app.training.hooks.penalty import distance, orthogonality
from fl_app.training.local import Answer, Assignment, Trained
from fl_app.training.loop import Hooks
from fl_app.tree import Tree, scalars
from strategies.rm_lora import MOVED, Draw, RMLoRA, RMLoRAClient, inside, of_round
from tests.server.test_coded import Rounds, same
from tests.server.test_parts import check_goes_on
from tests.strategies.federation import Federation
from tests.strategies.test_scallion import check_no_secure_sums

EPS = float(np.finfo(np.float32).eps)
R, K, N, MASTER = 4, 2, 3, 7
NAMES = [f"{m}.lora_{f}.default.weight" for m in ("q", "v") for f in "AB"]
RNG = np.random.default_rng(0)
THETA0 = {
    **{n: RNG.normal(0, 1, (R, 6) if "_A." in n else (5, R)).astype(np.float32) for n in NAMES},
    "head": RNG.normal(0, 1, (3, 3)).astype(np.float32),
}


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Factors(torch.nn.Module):
    """A Tree whose names have dots, as those of a model have."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.own = {n: torch.nn.Parameter(torch.from_numpy(x.copy())) for n, x in tree.items()}

    def named_parameters(self, *args, **kwargs):
        yield from self.own.items()

    def parameters(self, *args, **kwargs):
        yield from self.own.values()

    @property
    def tree(self) -> Tree:
        return {n: p.detach().numpy().copy() for n, p in self.own.items()}


def steps(model: Factors, hooks: Hooks, count: int = 5, **options) -> torch.optim.Optimizer:
    """Do steps of AdamW on |x - 3|^2 with hooks, in the order of the local loop."""
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=0.1, **options)
    for _ in range(count):
        loss = torch.stack([((p - 3) ** 2).sum() for p in model.parameters()]).sum()
        for hook in hooks.losses:
            loss = hook(model, loss)
        optimizer.zero_grad()
        loss.backward()
        for hook in hooks.gradients:
            hook(model)
        optimizer.step()
        for hook in hooks.steps:
            hook(model, 0.1)
    return optimizer


# ---- the penalty ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["raw", "normalised"])
def test_the_penalty_is_nothing_at_orthonormal_directions(form: str) -> None:
    rows = torch.linalg.qr(torch.randn(6, R, dtype=torch.float64))[0].T.contiguous()
    f = rows.requires_grad_(True)
    found = distance(f, form)
    found.backward()
    assert found.item() < 1e-14
    assert torch.isfinite(f.grad).all()
    exact = torch.eye(R, 6, requires_grad=True)
    distance(exact, form).backward()
    assert not exact.grad.any()  # and not 0/0


def test_the_gradient_of_the_penalty_is_the_formula() -> None:
    for name in ("q.lora_A.default.weight", "q.lora_B.default.weight"):
        f = torch.from_numpy(THETA0[name].astype(np.float64))
        model = Factors({name: THETA0[name]})
        model.own[name] = torch.nn.Parameter(f.clone())
        orthogonality(0.3, "raw")(model, torch.zeros((), dtype=torch.float64)).backward()
        gram = f @ f.T if "_A." in name else f.T @ f
        off = gram - torch.eye(R, dtype=torch.float64)
        expected = 2 * (off @ f if "_A." in name else f @ off) / torch.linalg.norm(off)
        torch.testing.assert_close(model.own[name].grad, 0.3 * expected, rtol=1e-12, atol=0)


def test_the_gradients_are_those_of_finite_differences() -> None:
    f = torch.randn(R, 7, dtype=torch.float64, requires_grad=True)
    for form in ("raw", "normalised"):
        assert torch.autograd.gradcheck(lambda x, form=form: distance(x, form), (f,))


def test_it_is_the_mean_over_factors_and_b_of_zeros_is_not_pulled() -> None:
    tree = {n: np.zeros_like(x) if "_B." in n else x for n, x in THETA0.items()}
    model = Factors(tree)
    loss = orthogonality(0.5, "raw")(model, torch.zeros(()))
    loss.backward()
    sizes = [
        np.linalg.norm((x if "_A." in n else x.T) @ (x.T if "_A." in n else x) - np.eye(R))
        for n, x in tree.items()
        if n != "head"
    ]
    np.testing.assert_allclose(loss.item(), 0.5 * np.mean(sizes), rtol=1e-5)
    assert not model.own["q.lora_B.default.weight"].grad.any()
    assert model.own["head"].grad is None


def test_of_one_direction_and_of_zeros_the_cosine_is_zero() -> None:
    assert distance(torch.ones(1, 5), "normalised").item() == 0
    assert distance(torch.zeros(3, 5), "normalised").item() == 0


# ---- the masks -----------------------------------------------------------------------------


@given(
    k=st.integers(1, 6), unit=st.sampled_from(["component", "element"]),
    shared=st.booleans(), number=st.integers(1, 50),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_k_directions_of_each_module_and_the_same_on_every_machine(k, unit, shared, number) -> None:
    draw = Draw(k, unit, shared)
    masks = of_round(draw, THETA0, MASTER, number)
    assert [*masks] == NAMES  # the head is never masked
    again = of_round(Draw(k, unit, shared), {n: x + 1 for n, x in THETA0.items()}, MASTER, number)
    for n, mask in masks.items():
        assert (mask == again[n]).all()
        assert mask.shape == THETA0[n].shape
        assert mask.sum() == THETA0[n].size * min(k, R) // R
        if unit == "component":
            lines = mask.all(axis=1 if "_A." in n else 0)
            assert lines.sum() == min(k, R)
            if shared:
                other = masks[n.replace("_B.", "_A.")]
                assert (other.all(axis=1) == lines).all()


def test_masks_of_rounds_modules_and_unshared_factors_differ() -> None:
    draw = Draw(K, "component", True)
    rounds = [of_round(draw, THETA0, MASTER, t) for t in range(1, 20)]
    a, b = NAMES[0], NAMES[2]
    assert len({m[a].tobytes() for m in rounds}) == math.comb(R, K)
    assert any((m[a] != m[b]).any() for m in rounds)
    free = [of_round(Draw(K, "component", False), THETA0, MASTER, t) for t in range(1, 20)]
    assert any((m[NAMES[0]].all(1) != m[NAMES[1]].all(0)).any() for m in free)


def test_what_is_outside_of_a_rounds_mask_does_not_move_nor_do_its_moments() -> None:
    model = Factors(THETA0)
    masks = of_round(Draw(K, "component", True), THETA0, MASTER, 1)
    hooks = Hooks(gradients=[masked(lambda: masks)], steps=[kept_still(model, masks)])
    optimizer = steps(model, hooks, weight_decay=0.5)
    for n, p in model.own.items():
        inner = masks.get(n, np.ones(p.shape, bool))
        assert (model.tree[n][~inner] == THETA0[n][~inner]).all()
        assert (model.tree[n][inner] != THETA0[n][inner]).all()
        for moment in ("exp_avg", "exp_avg_sq"):
            kept = optimizer.state[p][moment].numpy()
            assert not kept[~inner].any()
            assert kept[inner].all()


def test_in_a_masked_step_of_sgd_nothing_outside_moves() -> None:
    model = Factors(THETA0)
    masks = of_round(Draw(K, "component", False), THETA0, MASTER, 3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    masked(lambda: masks)(model)
    torch.optim.SGD(list(model.parameters()), lr=0.1).step()
    for n, x in model.tree.items():
        inner = masks.get(n, np.ones(x.shape, bool))
        assert ((x != THETA0[n]) == inner).all()


# ---- both halves ---------------------------------------------------------------------------


def options(**more) -> dict:
    shared = {"k": K, "unit": "component", "shared": True, "refresh": "round", "master": MASTER}
    return {**shared, **more}


class Masked(Federation):
    """Clients that train factors by AdamW with the hooks, each another number of steps."""

    def client(self, client, number, parts, form, said) -> Answer:
        model = Factors(parts["model"])

        def train(hooks: Hooks) -> Trained:
            steps(model, hooks, count=2 + client)
            return Trained(model.tree, {"num-examples": 1, "loss": 0.0})

        answer = self.method.run(
            Assignment(
                parts, self.theta0, {}, said, form, client, number, seed=number, model=model,
                rows=lambda: None, train=train, decoded=lambda sent: sent,
            )
        )  # fmt: skip
        self.answers[client], self.arrived[client] = answer, dict(answer.parts)
        self.given[client] = model.tree
        return answer


def rm_lora(strength: float = 0.0, **more) -> Masked:
    shared = options(**more)
    strategy = RMLoRA(**shared, weighted_by_key="one", **EVERYONE)
    method = RMLoRAClient(strength, "raw", **shared)
    return Masked(strategy, method, lambda client, x: x, THETA0, N)


@pytest.mark.parametrize("unit", ["component", "element"])
def test_what_moved_decodes_to_the_clients_model(unit: str) -> None:
    here = rm_lora(unit=unit)
    for number in (1, 2, 3):
        here.round(number, [number % N])
        (own,) = here.given.values()
        for n, x in here.model.items():
            np.testing.assert_allclose(x, own[n], rtol=2 * EPS, atol=EPS)
        sent = here.arrived[number % N][MOVED]
        head = THETA0["head"].size
        assert scalars(sent) == (scalars(THETA0) - head) * K // R + head
        assert {n: x.shape for n, x in here.method.like(MOVED, THETA0).items()} == {
            n: x.shape for n, x in sent.items()
        }


def test_the_mean_of_what_moved_is_the_mean_of_the_models() -> None:
    here = rm_lora()
    here.round(1)
    for n, x in here.model.items():
        mean = np.mean([own[n] for own in here.given.values()], axis=0, dtype=float)
        np.testing.assert_allclose(x, mean, rtol=4 * EPS, atol=4 * EPS)


@pytest.mark.parametrize(("refresh", "other"), [("step", "round"), ("round", "step")])
def test_a_server_that_asks_for_the_other_form_is_refused(refresh: str, other: str) -> None:
    here = rm_lora(refresh=refresh)
    here.strategy.refresh = other
    with pytest.raises(FaultError, match="the server says the form="):
        here.round(1)


@pytest.mark.parametrize("refresh", ["step", "round"])
def test_without_penalty_and_with_all_directions_it_is_lora(refresh: str) -> None:
    here = rm_lora(k=R, refresh=refresh)
    here.round(1)
    for client, own in here.given.items():
        plain = Factors(THETA0)
        steps(plain, Hooks(), count=2 + client)
        assert same(own, plain.tree)


def test_masks_of_steps_differ_and_the_first_step_has_none() -> None:
    here, seen = rm_lora(refresh="step"), []

    def watch(model):
        seen.append({n: p.grad.numpy() != 0 for n, p in model.own.items()})

    given = type("Given", (), {"seed": 3, "theta0": THETA0})
    hook = masked(here.method._by_step(given))
    steps(Factors(THETA0), Hooks(gradients=[hook, watch]), count=4)
    assert all(mask.all() for mask in seen[0].values())
    for step in seen[1:]:
        assert step["head"].all()
        assert all(step[n].sum() == THETA0[n].size * K // R for n in NAMES)
    assert any((seen[1][n] != seen[2][n]).any() for n in NAMES)


def effective_rank(matrix: np.ndarray) -> float:
    """Return the exponential of the entropy of the normalized singular values."""
    sizes = np.linalg.svd(matrix, compute_uv=False)
    p = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def test_the_update_has_no_lower_rank_than_loras() -> None:
    """Of a target of full rank, as the mean over seeds; a LoRA of the same rank and steps."""
    found = {0.0: [], 0.3: []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        target = torch.from_numpy(rng.normal(0, 1, (8, 8)) * 0.6 ** np.arange(8)).float()
        tree = {NAMES[0]: rng.normal(0, 0.3, (R, 8)).astype(np.float32),
                NAMES[1]: np.zeros((8, R), np.float32)}  # fmt: skip
        for strength in found:
            model = Factors(tree)
            optimizer = torch.optim.AdamW(list(model.parameters()), lr=0.03, weight_decay=0)
            a, b = model.own[NAMES[0]], model.own[NAMES[1]]
            for _ in range(60):
                optimizer.zero_grad()
                loss = ((b @ a - target) ** 2).sum() / 8
                orthogonality(strength, "raw")(model, loss).backward()
                optimizer.step()
            found[strength].append(effective_rank((b @ a).detach().numpy()))
    assert np.mean(found[0.3]) > np.mean(found[0.0])


# ---- through the codecs --------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["fp32", "nf4"])
def test_half_of_the_directions_cost_half_of_the_bytes_and_runs_go_on(
    tmp_path: Path, codec: str
) -> None:
    words = f"experiment=rm_lora codec={codec} adapter.r=4 strategy.inner.k=2"
    rounds = check_goes_on(tmp_path, words)
    theta0 = rounds.here.theta0
    masks = of_round(Draw(2, "component", True), theta0, 0, 1)
    assert scalars(inside(theta0, masks)) * 2 == scalars(theta0)
    rows = [row for row in rounds.ledger.rows if row.kind == "train" and row.direction == "up"]
    assert {row.scalars for row in rows} == {scalars(theta0) // 2}
    if codec == "fp32":
        assert {row.payload_bytes for row in rows} == {2 * scalars(theta0)}


def test_as_published_the_whole_model_is_sent(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "experiment=rm_lora strategy.inner.refresh=step adapter.r=4")
    rounds.round(1)
    rows = [row for row in rounds.ledger.rows if row.kind == "train" and row.direction == "up"]
    assert {row.scalars for row in rows} == {scalars(rounds.here.theta0)}
    assert not same(rounds.tree, rounds.here.theta0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("strategy.inner.k=0", "k=0 should be a whole number from 1"),
        ("strategy.inner.k=9", "strategy.inner.k=9 should be at most adapter.r=8"),
        ("strategy.inner.unit=row", "unit=row should be one of"),
        ("strategy.inner.refresh=epoch", "refresh=epoch should be one of"),
        ("strategy.local.penalty=cosine", "penalty=cosine should be one of"),
        ("strategy.local.strength=-1", r"strength=-1 should be in \[0, inf\)"),
        ("strategy.inner.master=-1", "master=-1 should be a whole number from 0"),
        ("strategy.inner.shared=3", "shared=3 should be true or false"),
        ("strategy.local.k=2", "strategy.local.k=2 should be strategy.inner.k=4"),
        ("adapter=ffa_lora", "adapter.id=ffa_lora does not train both factors"),
        ("privacy=dp_sgd", "set strategy.local.strength=0"),
        ("strategy.local._target_=strategies.fedprox.FedProxClient", "strategy.local should be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words: str, says: str) -> None:
    run = "federation.clients=3 clients_per_round=1 strategy=rm_lora codec=fp32"
    with pytest.raises(ConfigError, match=says):
        check(compose(f"{run} {words}"))


def test_secure_sums_are_refused_with_the_reason() -> None:
    check_no_secure_sums("rm_lora")
