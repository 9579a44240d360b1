"""What is forgotten: the source split, its scores by round, the rank of a change, diversity."""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app import data
from fl_app.adapters import ADAPTERS
from fl_app.adapters.change import changes, effective_rank
from fl_app.build import open_session
from fl_app.config import compose
from fl_app.data.stories import PRETRAINING
from fl_app.tasks.forgetting import distinct_answers, forgotten
from fl_app.training.loop import train
from fl_app.tree import digest
from tests import small
from tests.disturbed import in_process

WORDS = (
    "experiment=forgetting federation.clients=2 data.providers_per_client=1 "
    "data.problems_per_provider=3 data.test_problems=2 data.validation_problems=0 "
    "data.public_providers=1 data.public_problems_per_provider=1 data.unseen_providers=1 "
    "data.unseen_problems_per_provider=1 data.source_problems=3 model.max_answer_length=8 "
    "adapter.r=4 adapter.alpha=8 local_epochs=1 logger=none"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forgetting") / "run"
    in_process(f"{WORDS} rounds=2 output.dir={folder.parent} output.name=run")
    return folder


def by_round(folder: Path) -> dict[int, dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "source"]
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(int(row["round"]), {})[row["metric"]] = float(row["value"])
    return found


def test_nothing_is_forgotten_before_training_and_each_round_says_how_much(run: Path) -> None:
    found = by_round(run)
    assert [*found] == [0, 1, 2]
    assert (found[0]["forgotten"], found[0]["effective_rank"]) == (0, 0)
    for scores in found.values():
        assert scores["forgotten"] == pytest.approx(found[0]["accuracy"] - scores["accuracy"])
        assert 1 / 8 <= scores["distinct_answers"] <= 1
    assert 0 < found[2]["effective_rank"] <= 4
    assert found[2]["perplexity"] != found[0]["perplexity"]


def test_what_a_start_has_lost_already_is_forgotten(run: Path, tmp_path: Path) -> None:
    base = by_round(run)[0]["accuracy"]
    words = f"{WORDS} adapter=lora_sb adapter.eta=1.0 strategy=fed_sb"
    in_process(f"{words} rounds=1 output.dir={tmp_path} output.name=run")
    found = by_round(tmp_path / "run")
    assert found[0]["forgotten"] > 0
    for scores in found.values():
        assert scores["forgotten"] == pytest.approx(base - scores["accuracy"])


def test_ranks_by_matrix_stand_in_a_file(run: Path) -> None:
    ranks = json.loads((run / "effective_rank.json").read_text())
    assert len(ranks) == 21  # of three layers
    assert all(1 <= one["rank"] <= 4 and one["norm"] > 0 for one in ranks.values())
    mean = np.mean([one["rank"] for one in ranks.values()])
    assert by_round(run)[2]["effective_rank"] == pytest.approx(mean)


def test_a_metric_whose_small_values_are_good_is_forgotten_upwards() -> None:
    assert forgotten("perplexity", {"perplexity": 2.0}, {"perplexity": 5.0}) == 3
    assert forgotten("accuracy", {"accuracy": 0.5}, {"accuracy": 0.75}) == -0.25


@pytest.mark.parametrize("kind", ["documents", "problems"])
def test_the_source_is_what_the_embedded_models_were_pretrained_on(kind: str) -> None:
    words = small.DATA if kind == "documents" else WORDS
    without = data.load(compose(f"{words} data.source_{kind}=0").data, 0)
    splits = data.load(compose(f"{words} data.source_{kind}=6").data, 0)
    assert {*splits} - {*without} == {"source"}
    assert len(splits["source"]) == 6
    for name in without:  # the others stay as they are
        assert splits[name].to_list() == without[name].to_list()
    others = {row["provider"] for name in without for row in without[name]}
    assert not others & {*splits["source"]["provider"]}
    if kind == "problems":
        kinds = {one.name for one in PRETRAINING}
        assert {*splits["source"]["kind"]} <= kinds
        assert not kinds & {row["kind"] for name in without for row in without[name]}


# ---- the rank of a change ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 10), min_size=1, max_size=6), seed=st.integers(0, 99),
    scale=st.floats(1e-3, 1e3),
)  # fmt: skip
def test_it_is_how_many_singular_values_have_nine_tenths(values, seed, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(9, len(values), generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(7, len(values), generator=generator, dtype=torch.float64))
    change = scale * u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T
    squares = sorted((x**2 for x in values), reverse=True)
    exact = [sum(squares[: k + 1]) / sum(squares) for k in range(len(squares))]
    if min(abs(share - 0.9) for share in exact) > 1e-6:
        assert effective_rank(change) == next(k + 1 for k, x in enumerate(exact) if x >= 0.9)


def test_a_mean_of_products_may_have_every_clients_rank_and_a_lora_its_own() -> None:
    drawn = [np.random.default_rng(k).standard_normal((40, 3)).astype(np.float32) for k in range(6)]
    products = [torch.from_numpy(b @ a.T) for b, a in zip(drawn[:3], drawn[3:], strict=True)]
    assert all(effective_rank(one, 1 - 1e-9) == 3 for one in products)
    assert effective_rank(sum(products) / 3, 1 - 1e-9) == 9
    assert effective_rank(torch.zeros(4, 5)) == 0


@pytest.mark.parametrize("adapter", ["lora", "full", "lora_sb", "lq_lora"])
def test_changes_are_those_of_the_merged_weights(adapter: str) -> None:
    few = "output.base=copy adapter.iterations=1 adapter.search_iterations=1"
    more = {"lora_sb": "adapter.init=random", "lq_lora": few, "full": "optimizer.lr=1e-4"}
    here = open_session(f"{WORDS} adapter={adapter} {more.get(adapter, '')}")
    start = here.theta0
    rng = np.random.default_rng(0)
    now = {n: x + 0.01 * rng.standard_normal(x.shape).astype(np.float32) for n, x in start.items()}
    found = dict(changes(here.adapter, here.model, start, now))
    merged = []
    for tree in (start, now):
        here.adapter.set(here.model, tree)
        whole = here.model
        if adapter != "full":
            whole = copy.deepcopy(here.model).merge_and_unload()
        merged.append({n: x.detach().clone() for n, x in whole.named_parameters() if x.ndim == 2})
    here.adapter.set(here.model, start)
    prefix = "base_model.model."
    assert len(found) == (len(merged[0]) if adapter == "full" else 21)
    for name, change in found.items():
        key = f"{name.removeprefix(prefix)}.weight"
        assert torch.allclose(change, merged[1][key] - merged[0][key], atol=1e-5)
        if adapter in ("lora", "lora_sb"):
            assert effective_rank(change, 0.999999) <= 8


def test_numbers_that_weights_are_made_of_are_no_weights() -> None:
    for words in ("adapter=tied", "adapter=ligo adapter.config={num_hidden_layers:4}"):
        here = open_session(f"{WORDS} {words}")
        now = {n: x + np.float32(0.01) for n, x in here.theta0.items()}
        modules = dict(here.model.named_modules())
        for name, change in changes(here.adapter, here.model, here.theta0, now):
            weight = modules[name].get_base_layer().weight
            assert sorted(change.shape) == sorted(weight.shape)


# ---- the study's other rules ---------------------------------------------------------------------


def test_scores_and_samples_change_no_weight_and_repeat() -> None:
    here = open_session(WORDS)
    rows = here.data["source"]
    before = digest({n: x.numpy() for n, x in here.model.state_dict().items()})
    here.evaluate(here.theta0, rows)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        distinct_answers(here.model, here.task, rows, 8, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)
    assert first == again
    assert digest({n: x.numpy() for n, x in here.model.state_dict().items()}) == before
    assert other is not None


def test_diversity_is_one_answer_of_a_certain_model_and_many_of_an_uncertain_one() -> None:
    here = open_session(WORDS)
    rows, head = here.data["source"], here.model.get_base_model().lm_head
    kept = head.weight.data.clone()
    try:
        head.weight.data.mul_(1e4)
        assert distinct_answers(here.model, here.task, rows, 6, 0) == pytest.approx(1 / 8)
        head.weight.data.zero_()
        assert distinct_answers(here.model, here.task, rows, 6, 0) == 1
    finally:
        head.weight.data.copy_(kept)


def test_documents_have_a_diversity_too() -> None:
    here = open_session(f"{small.DATA} data.source_documents=2 model.max_answer_length=4")
    found = distinct_answers(here.model, here.task, here.data["source"], 4, 0)
    assert found is not None
    assert 1 / 8 <= found <= 1


def test_alpha_and_the_rate_are_not_one_option() -> None:
    """Under AdamW they are alike where B starts at 0, until A has moved too."""

    def trained(alpha: int, lr: float) -> torch.Tensor:
        here = open_session(f"{WORDS} adapter.alpha={alpha} optimizer.lr={lr}")
        rows = [here.data["train"][k] for k in range(2)]
        here.adapter.set(here.model, here.theta0)
        train(here.model, rows, here.task, here.cfg.optimizer, epochs=3, batch_size=2, seed=0)
        now = here.adapter.get(here.model)
        return next(x for _, x in changes(here.adapter, here.model, here.theta0, now))

    one, other = trained(4, 4e-3), trained(16, 1e-3)
    assert (one - other).norm() > 0.01 * one.norm()


def test_full_fine_tuning_and_lora_see_the_same_batches() -> None:
    seen = {}
    for adapter in ("full", "lora"):
        here = open_session(f"{WORDS} adapter={adapter}")
        made, batches = here.task.training, []

        def noted(rows, made=made, batches=batches):
            batches.append([row["instruction"] for row in rows])
            return made(rows)

        here.task.training = noted
        rows = [here.data["train"][k] for k in range(6)]
        train(here.model, rows, here.task, here.cfg.optimizer, epochs=2, batch_size=2, seed=3)
        del here.task.training
        seen[adapter] = batches
    assert seen["full"] == seen["lora"]
    assert len(seen["full"]) == 6


def test_all_linear_is_every_linear_layer_but_the_head() -> None:
    cfg = compose(WORDS)
    here = open_session(WORDS)
    base = here.model.get_base_model()
    found = [
        module
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and name != "lm_head"
    ]
    sent = sum(x.size for x in ADAPTERS["lora"].get(here.model).values())
    assert sent == cfg.adapter.r * sum(m.in_features + m.out_features for m in found)
