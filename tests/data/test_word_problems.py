"""Laws of the word problems, and the embedded decoder on them."""

import hashlib
import json
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app import models, tasks
from fl_app.config import compose
from fl_app.data import client_split, load, word_problems
from fl_app.data.random_streams import generator
from fl_app.data.stories import FEDERATED, OPERATIONS, PRETRAINING, UNSEEN
from fl_app.data.word_problems import (
    LARGEST,
    POOLS,
    make_expression,
    make_problems,
)
from fl_app.files import installed
from fl_app.preflight import check
from fl_app.pretraining.llama import add_fillers, filler_words
from fl_app.tasks.answers import final_number

OVERRIDES = "model=llama-tiny data=word_problems task=word_problems"
CFG = compose(OVERRIDES)
KINDS = {kind.name: kind for kind in (*PRETRAINING, *FEDERATED, *UNSEEN)}


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return load(CFG.data, seed=0)


@pytest.fixture(scope="module", params=sorted(POOLS))
def rows(request) -> list[dict[str, Any]]:
    return make_problems(3, POOLS[request.param], range(60), range(3))


def _pattern(phrase: str) -> str:
    return re.escape(phrase.rstrip(".")).replace(r"\{n\}", r"(\d+)").replace(r"\{name\}", r"\w+")


def _operations(row: dict[str, Any]) -> list[tuple[str, int]]:
    """The operations of a story with their numbers, by its words alone."""
    found = []
    for operation, phrases in KINDS[row["kind"]].events.items():
        for phrase in phrases:
            for match in re.finditer(_pattern(phrase), row["instruction"]):
                found.append((match.start(), operation, int(match[1])))
    return [(operation, n) for _, operation, n in sorted(found)]


def test_the_words_say_what_is_worked_out(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        result = int(re.findall(r"\d+", row["instruction"])[0])
        lines = []
        for operation, n in _operations(row):
            lines.append(f"{result}{operation}{n}")
            result = {
                "+": result + n, "-": result - n, "*": result * n, "/": result // n
            }[operation]  # fmt: skip
            lines[-1] += f"={result}"
        assert row["output"] == "\n".join([*lines, f"#### {result}"])


def test_the_working_is_right(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        *lines, answer = row["output"].split("\n")
        for line in lines:
            left, right = line.split("=")
            assert eval(left) == int(right)  # digits and one sign, of our own making
            assert all(1 <= int(n) <= LARGEST for n in re.findall(r"\d+", line))
        ends = [line.split("=")[1] for line in lines]
        starts = [re.findall(r"\d+", line)[0] for line in lines]
        assert all(end == start for end, start in zip(ends, starts[1:], strict=False))
        assert final_number(answer) == int(ends[-1])


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_expressions_are_what_python_makes_of_them(key: int) -> None:
    row = make_expression(generator(key))
    assert eval(row["instruction"]) == final_number(row["output"])


def test_sizes(data: DatasetDict) -> None:
    assert {name: len(data[name]) for name in data} == {
        "train": 10 * 8 * 25,
        "test": 240,
        "validation": 120,
        "unseen": 120,
        "public": 300,
    }
    assert set(data["train"].column_names) == {"instruction", "output", "kind", "provider"}


def test_no_test_problem_is_known(data: DatasetDict) -> None:
    """Not by its text, nor with other people and things in it; nor is a validation problem."""

    def bare(split: str) -> list[tuple[str, str]]:
        return list(zip(data[split]["kind"], data[split]["output"], strict=True))

    test = bare("test")
    assert len(set(test)) == len(test)
    known = {*bare("train"), *bare("public"), *bare("unseen")}
    assert not set(test) & known
    validation = bare("validation")
    assert len(set(validation)) == len(validation)
    assert not set(validation) & {*known, *test}


def test_the_validation_split_changes_no_other(data: DatasetDict) -> None:
    without = load(OmegaConf.merge(CFG.data, {"validation_problems": 0}), seed=0)
    assert {*without} == {*data} - {"validation"}
    assert all(without[name].to_list() == data[name].to_list() for name in without)


def test_splits_share_providers_and_kinds_as_promised(data: DatasetDict) -> None:
    providers = {name: set(data[name]["provider"]) for name in data}
    kinds = {name: set(data[name]["kind"]) for name in data}
    assert providers["test"] | providers["validation"] <= providers["train"]
    assert not providers["public"] & providers["train"]
    assert kinds["test"] == kinds["public"] == kinds["train"]
    assert not kinds["unseen"] & kinds["train"]


def test_clients_hold_whole_providers_of_several_kinds(data: DatasetDict) -> None:
    held = [client_split(data["train"], CFG.data.partitioner, k, 10, seed=1) for k in range(10)]
    for client in held:
        providers = client["provider"][:]
        assert len(client) == 200
        assert all(providers.count(provider) == 25 for provider in providers)
    shares = [
        [sum(kind == k for k in client["kind"]) / len(client) for kind in sorted({*client["kind"]})]
        for client in held
    ]
    assert len({tuple(share) for share in shares}) > 5


def test_the_clients_wording_is_new_to_the_pretrained_model() -> None:
    def phrases(kinds) -> list[str]:
        return [phrase for kind in kinds for o in OPERATIONS for phrase in kind.events[o]]

    pools = [phrases(kinds) for kinds in (PRETRAINING, FEDERATED, UNSEEN)]
    for one, other in pairwise([*pools, pools[0]]):
        assert not set(one) & set(other)
    assert not {*POOLS["pretraining"].orders} & {*POOLS["federated"].orders}


def test_fillers_say_nothing_of_the_working() -> None:
    rng, fillers = generator(0), filler_words()
    for row in make_problems(3, POOLS["pretraining"], range(40), range(2)):
        told = row | {"instruction": add_fillers(rng, row["instruction"], fillers)}
        assert _operations(told) == _operations(row)
        assert re.findall(r"\d+", told["instruction"]) == re.findall(r"\d+", row["instruction"])


def test_problems_do_not_depend_on_what_else_is_made() -> None:
    pool = POOLS["federated"]
    together = make_problems(5, pool, range(4), range(3))
    assert make_problems(5, pool, range(2, 3), range(1, 2)) == [together[2 * 3 + 1]]
    assert make_problems(6, pool, range(4), range(3)) != together


def test_the_run_seed_changes_nothing_and_the_data_seed_everything(data: DatasetDict) -> None:
    small = OmegaConf.merge(CFG.data, {"clients": 1, "test_problems": 8})
    assert load(small, seed=0)["test"].to_list() == load(small, seed=1)["test"].to_list()
    other = load(OmegaConf.merge(small, {"seed": CFG.data.seed + 1}), seed=0)
    assert not set(other["test"]["instruction"]) & set(data["test"]["instruction"])


def test_the_same_bytes_on_every_machine(data: DatasetDict) -> None:
    digest = hashlib.sha256()
    for split in ("train", "test", "unseen", "public"):
        for row in data[split].select(range(0, len(data[split]), 10)):
            digest.update(json.dumps(row, sort_keys=True).encode())
    assert digest.hexdigest() == (
        "6c35544f97027985a49f849834ac04c5876bb0ea33f64fd3b237e7fe26ca6a02"
    )


def test_a_provider_without_new_problems_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setattr(word_problems, "TRIES", 1)
    few = {"clients": 1, "providers_per_client": 1, "test_problems": 2}
    with pytest.raises(ValueError, match=r"pond 0 has no problem left.*data\.test_problems"):
        load(OmegaConf.merge(CFG.data, few), seed=0)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("task=docvqa", "does not fit data.id=word_problems"),
        ("data.partitioner.column=document", "['kind', 'provider']"),
        ("data.problems_per_provider=0", "greater than 0"),
    ],
)
def test_the_configuration_is_checked_beforehand(overrides: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check(compose(f"{OVERRIDES} {overrides}"))
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def shipped():
    torch.set_num_threads(1)
    model, tokenizer = models.load(CFG.model, 0, CFG.task)
    return model, tasks.build(CFG, tokenizer, model.config)


def test_the_tokenizer_loses_nothing_and_the_lengths_suffice(shipped, data: DatasetDict) -> None:
    _, task = shipped
    for split in data.values():
        texts = [f"{row['instruction']}\n{row['output']}".lower() for row in split]
        ids = task.tokenizer(texts)["input_ids"]
        assert task.tokenizer.batch_decode(ids) == texts
        batch = task.training(split.to_list())
        assert (batch["labels"] == task.end).sum() == len(split)  # no response is cut
        assert task.prompts(split.to_list())["input_ids"].shape[1] < CFG.model.max_length


def test_the_shipped_model_solves_what_it_was_trained_for(shipped) -> None:
    model, task = shipped
    rows = make_problems(1, POOLS["pretraining"], range(5000, 5064), range(1))
    assert task.score(task.predict(model, rows), rows)["accuracy"] > 0.9


def test_the_shipped_model_has_to_learn_the_clients_wording(shipped, data: DatasetDict) -> None:
    model, task = shipped
    rows = data["test"].select(range(0, 240, 4)).to_list()
    assert task.score(task.predict(model, rows), rows)["accuracy"] < 0.5


def test_the_shipped_weights_are_small_and_checked() -> None:
    assert CFG.model.sha256
    assert installed("fl_app/models/llama_tiny/model.safetensors").stat().st_size < 3_000_000
    wrong = OmegaConf.merge(CFG.model, {"sha256": "0" * 64})
    with pytest.raises(ValueError, match="git checkout"):
        models.load(wrong, 0, CFG.task)
