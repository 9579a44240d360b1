"""Sent and competition bytes differ by the aliases of shared tensors, and by nothing else."""

from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord
from torch import nn

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config import ConfigError, compose
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.wire.conventions import COLUMNS, alias_bytes
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record
from tests import small
from tests.loopback import Loopback


class Shared(nn.Module):
    """A table under three names, one layer frozen, one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.reader = nn.Embedding(7, 3)
        self.reader.weight = self.table.weight
        self.writer = nn.Linear(3, 7, bias=False)
        self.writer.weight = self.table.weight
        self.own = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("steps", torch.zeros(5))


@pytest.mark.parametrize("frozen", [False, True])
def test_every_further_name_of_a_tensor_counts_once(frozen: bool) -> None:
    model = Shared()
    model.table.requires_grad_(not frozen)
    assert alias_bytes(model) == 2 * 4 * 7 * 3


def test_without_shared_tensors_the_conventions_agree() -> None:
    assert alias_bytes(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))) == 0


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize(("codec", "seed_only"), [("fp32", False), ("fp32", True), ("nf4", True)])
def test_the_ledger_counts_both(tmp_path: Path, adapter: str, codec: str, seed_only: bool) -> None:
    overrides = f"{small.RUN} strategy=fedavg codec={codec} adapter={adapter}"
    here = open_session(overrides)
    ledger = Ledger(tmp_path / "ledger.csv")
    coded = Coded(inner_strategy(here.cfg), here, ledger, sends_theta0=not seed_only)
    grid = Loopback(overrides, nodes=3)
    coded.start(grid, to_record(here.theta0), num_rounds=1, train_config=ConfigRecord())
    base = here.model.get_base_model() if adapter == "lora" else here.model
    table = base.shared.weight.numel()
    rows = [row for row in ledger.rows if row.kind == "train"]
    assert len(rows) == 2
    if not seed_only:
        assert all(row.payload_bytes for row in rows)
    else:  # theta0 was not sent, and by no rule counted
        assert (rows[0].payload_bytes, rows[0].competition_bytes) == (0, 0)
        del rows[0]
    for row in rows:
        # The encoder's, the decoder's and lm_head's name for the one token embedding.
        assert row.competition_bytes - row.payload_bytes == 3 * 4 * table
        if codec == "fp32":
            assert row.payload_bytes == 4 * sum(x.size for x in here.theta0.values())
    assert all(row.competition_bytes == 0 for row in ledger.rows if row.kind == "setup")


def test_a_convention_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output\.convention=both should be one of"):
        check(compose("output.convention=both"))
    assert {*COLUMNS} == {"sent", "competition"}
