"""``python -m benchmarks.ligo``: a curve is kept once it is there, and the table is of the file."""

import json

import pytest
import torch

from benchmarks import ligo
from fl_app.pretraining import llama
from fl_app.pretraining.common import one_cycle


def test_curves_are_kept_one_by_one_and_not_trained_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(llama, "EXPRESSIONS", 2)
    monkeypatch.setattr(llama, "STORIES", 2)
    file = tmp_path / "new" / "ligo.json"
    trained, cut = [], ligo.train

    def train(model, task, batches, steps, rate, watch):
        trained.append((steps, rate))
        if len(trained) == 4:
            raise KeyboardInterrupt  # in the last start, after its operator's step
        cut(model, task, batches, steps, rate, watch)

    monkeypatch.setattr(ligo, "train", train)
    with pytest.raises(KeyboardInterrupt):
        ligo.curves(file, dict.fromkeys(ligo.STARTS, 2), [2], operator=1)
    kept = json.loads(file.read_text())
    assert [one["start"] for one in kept["measured"]] == ["scratch", "stacked"]

    content = ligo.curves(file, dict.fromkeys(ligo.STARTS, 2), [2], operator=1)
    assert content[:2] == kept["measured"]
    assert json.loads(file.read_text())["measured"] == json.loads(json.dumps(content))
    # Steps of the operator count: all starts have seen as many batches.
    assert [list(one["steps"]) for one in content] == [[0, 2], [0, 2], [0, 1, 2]]
    operators, models = (1, ligo.OPERATOR_RATE), (1, ligo.LEARNING_RATE)
    assert trained[2:] == [operators, models, operators, models]
    assert all(len(one["cpu_s"]) == len(one["loss"]) for one in content)
    assert ligo.table(content).count("\n") == 2 + 3
    with pytest.raises(ValueError, match="name another file"):
        ligo.curves(file, dict.fromkeys(ligo.STARTS, 3), [2], operator=1)


@pytest.mark.parametrize("steps", [1, 2, 10, 19, 20, 21, 200])
def test_a_schedule_has_any_number_of_steps_and_the_highest_rate_once(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    schedule, rates = one_cycle(optimizer, 0.1, steps, 0.05), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) <= 0.1
    if steps > 2:
        assert max(rates) > 0.09
        assert rates[0] < max(rates) > rates[-1]


def test_a_start_arrives_where_it_is_no_worse_than_the_end_of_scratch() -> None:
    curves = [
        {
            "start": "scratch",
            "seed": 2,
            "steps": [0, 10, 20],
            "cpu_s": [1, 2, 4],
            "loss": [3, 2, 1],
        },
        {"start": "ligo", "seed": 2, "steps": [0, 10, 20], "cpu_s": [1, 3, 5], "loss": [2, 1, 0.5]},
    ]
    scratch, grown = ligo.table(curves).splitlines()[2:]
    assert scratch == "| 2 | scratch | 3.0000 | 1.0000 after 20 | 20 | 100% | 4 | 100% |"
    assert grown == "| 2 | ligo | 2.0000 | 0.5000 after 20 | 10 | 50% | 3 | 75% |"
