"""``python -m benchmarks.simulation``: a simulated round compared with a plain training loop.

Both sides train the same clients with the same seeds, model, data and number of threads: one
through `flwr run` (SuperLink, server, Ray), the other by ``fl_app.training.loop.train`` and nothing
else, in as many processes as clients train at once, with everything built. They take turns, since
the machine may be busy, and the ratio is that of medians. For the same reason CPU seconds are given
beside wall seconds.

A simulated round is the whole time from the end of one to the end of the next: sampling, messages,
codecs, aggregation, checkpoint, logs and the server's score of the model, here on one document.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import plain_loop
from benchmarks.plain_loop import Loop
from fl_app.run import submit
from fl_app.runs import read
from fl_app.simulation.superlink import superlinks
from fl_app.tree import Tree

ONE_DOCUMENT = (
    "data.test_documents=1 data.unseen_providers=1 data.unseen_documents_per_provider=1 "
    "data.validation_documents=0"
)
SETTINGS = {  # name: overrides, clients at once, epochs
    "nf4_single": ("experiment=nf4_single", 1, 6),
    "fedavg_nf4, two clients at once": ("experiment=fedavg_nf4", 2, 4),
}
ACTOR = "ClientAppActor"
EVERY = 0.2  # seconds between two readings of CPU time


class Processors(threading.Thread):
    """Reads the CPU seconds of this process's descendants: of Ray's actors, and of all others.

    Attributes
    ----------
    readings : list of (float, dict)
        Time, and CPU seconds by process id, also of processes that have ended.
    actors : set of int
        Process ids of Ray's actors.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.readings: list[tuple[float, dict[int, float]]] = []
        self.actors: set[int] = set()
        self.stopped = threading.Event()

    def run(self) -> None:
        """Read every `EVERY` seconds until ``stopped`` is set."""
        seconds: dict[int, float] = {}  # also of those that have ended
        while not self.stopped.wait(EVERY):
            for process in psutil.Process().children(recursive=True):
                try:
                    if ACTOR in " ".join(process.cmdline()):
                        self.actors.add(process.pid)
                    used = process.cpu_times()
                    seconds[process.pid] = used.user + used.system
                except psutil.Error:
                    continue
            self.readings.append((time.time(), {**seconds}))

    def between(self, began: float, ended: float) -> tuple[float, float]:
        """Return the CPU seconds of actors and of others between two times.

        A process that becomes an actor counts as one from its start.
        """
        at = [time for time, _ in self.readings]
        of_actors = [
            sum(s for pid, s in seconds.items() if pid in self.actors)
            for _, seconds in self.readings
        ]
        of_all = [sum(seconds.values()) for _, seconds in self.readings]
        actors, everyone = (
            float(np.diff(np.interp([began, ended], at, total))[0]) for total in (of_actors, of_all)
        )
        return actors, everyone - actors


@dataclass(frozen=True)
class Round:
    """Seconds of a simulated round.

    Attributes
    ----------
    wall : float
        From the end of the round before to its own.
    train, codecs : float
        Of it training and codecs, means over its clients, as in the logs and in the ledger.
    actors_cpu, others_cpu : float
        CPU seconds of Ray's actors, and of all other processes.
    """

    wall: float
    train: float
    codecs: float
    actors_cpu: float
    others_cpu: float


@dataclass(frozen=True)
class Simulation:
    """A run: its rounds, the clients of each, the model, and the number of actors."""

    rounds: list[Round]
    clients: list[list[int]]
    model: Tree
    actors: int


def simulate(overrides: str, folder: Path, environment: dict[str, str]) -> Simulation:
    """Do one run in ``folder`` and return its rounds, from its files and the CPU times.

    Raises
    ------
    RuntimeError
        If it failed.
    """
    processors = Processors()
    processors.start()
    words = f"{overrides} output.dir={folder.parent} output.name={folder.name}"
    with Path(f"{folder}.log").open("w") as log:
        failed = submit(words, environment, log)
    processors.stopped.set()
    processors.join()
    if failed:
        raise RuntimeError(f"the run failed:\n{Path(f'{folder}.log').read_text()}")
    done = read.read(folder)
    number = int(done.summary["rounds"])
    clients = [
        [row.partition for row in done.ledger.rows if (row.round, row.direction) == (k, "down")]
        for k in range(1, number + 1)
    ]
    ends, trained = _ends(folder / "tensorboard")
    rounds = []
    for k, asked in enumerate(clients, 1):
        codecs = sum(row.encode_s + row.decode_s for row in done.ledger.rows if row.round == k)
        rounds.append(
            Round(
                ends[k] - ends[k - 1],
                (trained[k] - trained[k - 1]) / len(asked),
                codecs / len(asked),
                *processors.between(ends[k - 1], ends[k]),
            )
        )
    model = load_file(max(folder.glob("checkpoints/*.safetensors")))
    return Simulation(rounds, clients, model, len(processors.actors))


def _ends(events: Path) -> tuple[list[float], list[float]]:
    """Return the time at which each round ended, from round 0, and the training seconds so far."""
    accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0})
    accumulator.Reload()
    first = {e.step: e for e in reversed(accumulator.Scalars("seconds/train"))}
    in_order = [first[step] for step in sorted(first)]
    return [e.wall_time for e in in_order], [e.value for e in in_order]


def compare(overrides: str, at_once: int, repeats: int, folder: Path) -> str:
    """Run both sides ``repeats`` times, in turn, and return the table."""
    simulations: list[Simulation] = []
    loops: list[list[Loop]] = []
    with superlinks() as (environment,):
        for repeat in range(repeats):
            simulated = simulate(overrides, folder / f"repeat-{repeat}", environment)
            turns = [
                [(k, clients[i]) for k, clients in enumerate(simulated.clients, 1)]
                for i in range(at_once)
            ]
            simulations.append(simulated)
            loops.append(plain_loop.run(overrides, turns))
            if at_once == 1 and not _equal(loops[-1][0].model, simulated.model):
                raise RuntimeError("the plain loop did not train the model of the simulation")
    return table(simulations, loops)


def _equal(one: Tree, other: Tree) -> bool:
    return {*one} == {*other} and all(np.array_equal(one[name], other[name]) for name in one)


def table(simulations: list[Simulation], loops: list[list[Loop]]) -> str:
    """Return a line of medians for every round, and one for all rounds but the first."""
    lines = [
        "| round | simulation, s | plain loop, s | ratio | of the simulation: training | codecs "
        "| messages, waiting, score, files | processor s: actors | others | plain loop |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    numbers = range(len(simulations[0].rounds))
    for k in numbers:
        lines.append(_line(str(k + 1), _rows(simulations, loops, [k])))
    if len(numbers) > 1:
        lines.append(_line("2 and later", _rows(simulations, loops, [*numbers][1:])))
    build = statistics.median(loop.build for processes in loops for loop in processes)
    actors = sorted({simulated.actors for simulated in simulations})
    lines += [
        "",
        f"processes of clients in a run: {', '.join(map(str, actors))}. Model and data took "
        f"{build:.1f} s to build in the plain loop, before round 1; in the simulation what the "
        "server's own set-up has left of it is in round 1, as is the start of Ray's actors",
    ]
    return "\n".join(lines)


def _rows(
    simulations: list[Simulation], loops: list[list[Loop]], rounds: list[int]
) -> list[tuple[float, ...]]:
    """Return the seconds that a line is made of, for every repeat and each of ``rounds``."""
    return [
        (
            r.wall,
            max(loop.wall[k] for loop in processes),
            r.train,
            r.codecs,
            r.actors_cpu,
            r.others_cpu,
            sum(loop.cpu[k] for loop in processes),
        )
        for simulated, processes in zip(simulations, loops, strict=True)
        for k, r in ((k, simulated.rounds[k]) for k in rounds)
    ]


def _line(label: str, rows: list[tuple[float, ...]]) -> str:
    wall, plain, train, codecs, actors, others, cpu = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    rest = wall - train - codecs
    return (
        f"| {label} | {wall:.2f} | {plain:.2f} | {wall / plain:.3f} | {train:.2f} | {codecs:.3f} "
        f"| {rest:.2f} | {actors:.2f} | {others:.2f} | {cpu:.2f} |"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="simulated rounds beside plain local training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of every client; by default 6, and 4 for two")
    arguments = parser.parse_args()
    for name, (experiment, at_once, epochs) in SETTINGS.items():
        epochs = arguments.epochs or epochs
        overrides = f"{experiment} {ONE_DOCUMENT} rounds={arguments.rounds} local_epochs={epochs}"
        with tempfile.TemporaryDirectory() as folder:
            lines = compare(overrides, at_once, arguments.repeats, Path(folder))
        print(f"\n{name}: {epochs} epochs, {arguments.repeats} runs of each side\n\n{lines}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
