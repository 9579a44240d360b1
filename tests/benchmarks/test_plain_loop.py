"""The plain side of ``make bench-simulation`` trains what a run trains, and nothing less."""

import threading
from typing import cast

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from benchmarks import plain_loop
from benchmarks.simulation import Processors, Round, Simulation, table
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.server.coded import Coded
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record, to_tree
from tests import small
from tests.loopback import Loopback

RUN = f"experiment=nf4_single {small.RUN}"


def test_one_client_a_round_ends_with_the_model_of_the_run(tmp_path) -> None:
    here = open_session(RUN)
    ledger = Ledger(tmp_path / "ledger.csv")
    server = Coded(inner_strategy(here.cfg), here, ledger)
    grid = cast(Grid, Loopback(RUN, nodes=3))
    result = server.start(grid, to_record(here.theta0), num_rounds=2, train_config=ConfigRecord())
    turns = [
        (r.round, r.partition) for r in ledger.rows if (r.kind, r.direction) == ("train", "up")
    ]
    assert len(turns) == 2

    plain_loop._share(threading.Barrier(1))
    loop = plain_loop._loop(RUN, turns)
    assert len(loop.wall) == len(loop.cpu) == 2
    trained = to_tree(result.arrays, like=here.theta0)
    assert all(np.array_equal(loop.model[name], x) for name, x in trained.items())
    other = plain_loop._loop(RUN, [(k, (client + 1) % 3) for k, client in turns])
    assert any(not np.array_equal(other.model[name], x) for name, x in trained.items())


def test_processor_seconds_are_those_of_the_interval() -> None:
    processors = Processors()
    processors.actors = {7}
    processors.readings = [
        (0.0, {7: 0.0, 8: 0.0}),
        (10.0, {7: 8.0, 8: 1.0}),
        (20.0, {7: 18.0, 8: 1.0}),
    ]
    assert processors.between(0, 20) == (18, 1)
    assert processors.between(5, 15) == pytest.approx((9, 0.5))


def test_the_table_is_of_medians_and_the_first_round_is_no_warm_one() -> None:
    walls = ([50.0, 11.0, 10.0], [40.0, 13.0, 12.0], [60.0, 12.0, 14.0])
    runs = [
        Simulation([Round(w, 9.0, 0.5, 9.5, 0.2) for w in wall], [[0]] * 3, {}, 1) for wall in walls
    ]
    loops = [[plain_loop.Loop(3.0, [10.0] * 3, [9.0] * 3, {})]] * 3
    lines = table(runs, loops).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| 1", "| 2", "| 3", "| 2 and later"]
    assert lines[2].startswith("| 1 | 50.00 | 10.00 | 5.000 | 9.00 | 0.500 | 40.50 |")
    assert lines[5].startswith("| 2 and later | 12.00 | 10.00 | 1.200 | 9.00 | 0.500 | 2.50 |")


def test_two_clients_at_once_take_as_long_as_the_slower() -> None:
    runs = [Simulation([Round(12.0, 9.0, 0.5, 19.0, 0.2)], [[0, 1]], {}, 2)]
    loops = [[plain_loop.Loop(3.0, [s], [s], {}) for s in (8.0, 10.0)]]
    assert table(runs, loops).splitlines()[2].split(" | ")[1:4] == ["12.00", "10.00", "1.200"]
