"""Local training without Flower: the turns of a run's clients in plain loops, a process for each.

A process is set up like one of Ray's actors: the same session, the same number of threads, built
before anything is timed. Between two turns the model goes through the codec up, untimed, so that
with one client a round the loop ends with the same model as the run.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.synchronize import Barrier

from fl_app.build import open_session
from fl_app.seeds import turn_seed
from fl_app.session import Session
from fl_app.training.loop import train
from fl_app.tree import Tree

_start: Barrier  # where this process waits for the others before a turn


@dataclass(frozen=True)
class Loop:
    """What one process did.

    Attributes
    ----------
    build : float
        Seconds to build session and data.
    wall, cpu : list of float
        Wall seconds of every turn, and this process's CPU seconds of it.
    model : Tree
        The trained tensors, as the server would have decoded them.
    """

    build: float
    wall: list[float]
    cpu: list[float]
    model: Tree


def run(overrides: str, turns: list[list[tuple[int, int]]]) -> list[Loop]:
    """Train all turns, each process its own list; the processes begin every turn together.

    Parameters
    ----------
    turns : list of lists of (int, int)
        Round and partition of every turn, a list for each process.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(turns))
    with ProcessPoolExecutor(len(turns), spawn, _share, (barrier,)) as processes:
        return list(processes.map(_loop, repeat(overrides), turns))


def _share(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _loop(overrides: str, turns: list[tuple[int, int]]) -> Loop:
    began = time.perf_counter()
    here = open_session(overrides)
    rows = {partition: here.documents(partition) for _, partition in turns}
    build = time.perf_counter() - began
    cfg, tree = here.cfg, here.theta0
    wall, cpu = [], []
    for server_round, partition in turns:
        here.adapter.set(here.model, tree)
        seed = turn_seed(cfg.seed, server_round, partition)
        _start.wait()
        began, before = time.perf_counter(), time.process_time()
        train(
            here.model,
            rows[partition],
            here.task,
            cfg.optimizer,
            epochs=cfg.local_epochs,
            batch_size=cfg.batch_size,
            gradient_accumulation=cfg.gradient_accumulation,
            seed=seed,
        )
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - before)
        tree = _received(here.adapter.get(here.model), here)
    return Loop(build, wall, cpu, tree)


def _received(tree: Tree, here: Session) -> Tree:
    """Return ``tree`` as the server decodes it, with a codec without memory."""
    wire, _ = here.up.encode(tree, here.up.init(here.theta0), here.theta0)
    return here.up.decode(wire, here.theta0)
