"""Optimizers and schedules as the configuration builds them."""

import pytest
import torch

from fl_app.config import compose
from fl_app.training import optimizers
from fl_app.training.shampoo import Shampoo


@pytest.mark.parametrize("schedule", sorted(optimizers.SCHEDULES))
def test_schedules_warm_up_to_the_rate_and_never_exceed_it(schedule: str) -> None:
    cfg = compose(f"optimizer.schedule={schedule} optimizer.warmup=0.2").optimizer
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = optimizers.build([weight], cfg, steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(cfg.lr / 10)
    assert max(rates) == pytest.approx(cfg.lr)
    assert rates[9] == pytest.approx(cfg.lr)
    assert schedule == "constant" or rates[-1] < 0.05 * cfg.lr


def test_the_configuration_builds_shampoo_and_it_repeats_itself() -> None:
    cfg = compose("optimizer=shampoo").optimizer
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        layers = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        model = torch.nn.Sequential(*layers).float()  # as clients train
        optimizer, schedule = optimizers.build(model.parameters(), cfg, steps=100)
        assert isinstance(optimizer, Shampoo)
        inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
        targets = inputs[:, :2] * inputs[:, 2:4]
        losses = []
        for _ in range(100):
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        assert losses[-1] < 0.75 * losses[0]
        ends.append(losses)
    assert ends[0] == ends[1]
