"""``python -m benchmarks.grown_adapter``: three federations for a seed, none done twice."""

import json

import pytest

from benchmarks import grown_adapter
from fl_app.pretraining import llama

FEW = (
    "data.providers_per_client=1 data.problems_per_provider=8 data.test_problems=2 "
    "data.unseen_providers=1 data.unseen_problems_per_provider=1 data.public_providers=1 "
    "federation.clients=2 rounds=1 local_epochs=1"
)


def test_each_federation_is_done_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(llama, "EXPRESSIONS", 2)
    monkeypatch.setattr(llama, "STORIES", 2)
    file, words = tmp_path / "adapter.json", f"{grown_adapter.WORDS} {FEW}"
    arms = grown_adapter.federations(file, tmp_path / "runs", [0], words, steps=1)
    assert [one["arm"] for one in arms] == ["small", "fresh", "grown"]
    assert all(len(one["score"]) == len(one["bytes"]) == 2 for one in arms)
    small, fresh, grown = arms
    assert fresh["trained"] == grown["trained"] > small["trained"]
    assert fresh["bytes"] == pytest.approx(grown["bytes"], abs=100)  # numbers in headers
    assert grown_adapter.table(arms).count("\n") == 2 + 3

    monkeypatch.setattr(grown_adapter, "run_experiment", None)
    again = grown_adapter.federations(file, tmp_path / "runs", [0], words, steps=1)
    assert again == json.loads(json.dumps(arms))


def test_a_federation_arrives_where_the_fresh_one_ends() -> None:
    both = {"seed": 0, "trained": 8, "bytes": [0, 10, 20]}
    arms = [
        {**both, "arm": "fresh", "score": [0.1, 0.3, 0.5]},
        {**both, "arm": "grown", "score": [0.2, 0.6, 0.6]},
    ]
    fresh, grown = grown_adapter.table(arms).splitlines()[2:]
    assert fresh.endswith("| 2 | 20 |")
    assert grown.endswith("| 1 | 10 |")
