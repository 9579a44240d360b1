"""``python -m benchmarks.scale``: time and server memory of a round over its number of clients.

The server is the real one: strategy, codec, checks, ledger. Its nodes answer with replies that real
clients sent (see ``benchmarks.replayed``), in the shapes of a LoRA of T5-base, after one step each,
since neither bytes nor seconds of the server depend on what was learned. Every measurement has a
process of its own, without the frozen weights: they are the same for any number of clients and
would hide what grows with it. Its peak of memory is the kernel's, from the start of the round on.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from benchmarks.full_size import peak_memory
from benchmarks.replayed import Recording, ReplayedGrid, record, server_session
from fl_app.aggregation.inner import inner_strategy
from fl_app.config import compose
from fl_app.server.coded import Coded
from fl_app.server.nodes import find_clients
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record

CLIENTS = [10, 100, 1000]
FEW = [10, 40]
RECORDED = 4  # clients that train; all clients answer with their replies
MEBI = 2**20
NODE_SECONDS = 600.0
T5_BASE = (
    "model=vt5-base-random model.config.prompt=decoder model.max_length=64 "
    "data=docvqa_mini data.providers_per_client=1 data.documents_per_provider=1 "
    "data.test_documents=1 data.validation_documents=0 local_epochs=1"
)
TRAINED = {
    "lora": "experiment=fedavg_nf4 adapter.target_modules=[q,v] "  # as PFL-DocVQA's entry
    f"adapter.modules_to_save=[spatial,visual_matcher] {T5_BASE}",
    "ffa_lora": f"experiment=ffa_lora codec=nf4 {T5_BASE}",
    "lora_sb": f"experiment=fed_sb adapter.r=158 adapter.init=random {T5_BASE}",
}
MEANS = [  # what is trained, and a strategy that needs only the mean
    ("lora", "fedavg"),
    ("lora", "fedprox"),
    ("lora", "fedadam"),
    ("lora", "fedyogi"),
    ("ffa_lora", "fedavg"),
    ("lora_sb", "fed_sb"),
]
OTHERS = [("lora", "fedmedian"), ("lora", "krum")]  # each keeps all models
HEADER = (
    "| trained | values | strategy | clients | set-up, s | round, s | processor ms each "
    "| of the least | peak, MiB | of the least | grown by, MiB | of the least |\n|" + "---|" * 12
)


@dataclass(frozen=True)
class Cell:
    """Measurements of one round.

    Attributes
    ----------
    clients : int
        Clients of the round.
    setup : float
        Wall seconds to find the nodes.
    seconds, processor : float
        Wall and CPU seconds of the round.
    before, peak : int
        Resident bytes before the round, and the most during it.
    """

    clients: int
    setup: float
    seconds: float
    processor: float
    before: int
    peak: int


def measure(recording: Recording, overrides: str, clients: int) -> Cell:
    """Measure one round of ``clients`` in this process, which should be a new one."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    cfg = compose(f"{overrides} federation.clients={clients} clients_per_round={clients}")
    here = server_session(cfg, recording.theta0)
    grid = cast(Grid, ReplayedGrid(recording.replies, clients))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder, "ledger.csv"))
        server = Coded(inner_strategy(cfg), here, ledger, sends_theta0=True)
        began = time.perf_counter()
        server.clients.nodes = find_clients(grid, clients, NODE_SECONDS).nodes
        setup = time.perf_counter() - began
        gc.collect()
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts anew
        began, worked = time.perf_counter(), time.process_time()
        server.start(grid, to_record(here.theta0), num_rounds=1, train_config=ConfigRecord())
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
    return Cell(clients, setup, seconds, processor, before, peak_memory(os.getpid()))


def line(trained: str, values: int, strategy: str, cell: Cell, least: Cell) -> str:
    """Return a line of the table, with ratios of ``cell`` to ``least``, that of fewest clients."""

    def each(one: Cell) -> float:
        return 1000 * one.processor / one.clients

    def grown(one: Cell) -> float:
        return (one.peak - one.before) / MEBI

    return (
        f"| {trained} | {values:,} | {strategy} | {cell.clients:,} | {cell.setup:.2f} "
        f"| {cell.seconds:.2f} | {each(cell):.0f} | {each(cell) / each(least):.2f} "
        f"| {cell.peak / MEBI:.0f} | {cell.peak / least.peak:.2f} "
        f"| {grown(cell):.0f} | {grown(cell) / grown(least):.2f} |"
    )


def lines(trained: str, strategies: list[str], numbers: list[list[int]]) -> Iterator[str]:
    """Yield the lines for one kind of trained tensors, a key of ``TRAINED``.

    Parameters
    ----------
    strategies : list of str
        Names of strategies.
    numbers : list of lists of int
        For every strategy its numbers of clients.
    """
    overrides = TRAINED[trained]
    some = f"federation.clients={RECORDED} clients_per_round={RECORDED}"
    recording: Recording = _in_new_process(record, f"{overrides} {some}")
    values = sum(x.size for x in recording.theta0.values())
    for strategy, clients in zip(strategies, numbers, strict=True):
        cells: list[Cell] = []
        for number in clients:
            cells.append(
                _in_new_process(measure, recording, f"{overrides} strategy={strategy}", number)
            )
            yield line(trained, values, strategy, cells[-1], cells[0])


def _in_new_process(function: Any, *arguments: Any) -> Any:
    """Call ``function`` in a new process, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.replayed", "fl_app.client_app"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(function, *arguments).result()


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description="seconds and memory of a round over its clients")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--trained", nargs="+", default=list(TRAINED), choices=list(TRAINED))
    arguments = parser.parse_args()
    print(HEADER)
    for trained in arguments.trained:
        means = [strategy for what, strategy in MEANS if what == trained]
        others = [strategy for what, strategy in OTHERS if what == trained]
        many = [arguments.clients] * len(means)
        for text in lines(trained, means + others, many + [FEW] * len(others)):
            print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
