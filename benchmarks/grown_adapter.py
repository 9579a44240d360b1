"""``python -m benchmarks.grown_adapter``: rounds and bytes of a federation from a grown LoRA. Ours.

The larger model of ``experiment=ligo`` is grown once from the embedded decoder, by an operator that
was trained for 100 steps on a stream like that of the decoder's pretraining, of which no client
has a row. For each seed there are three federations on word problems, with LoRA and FedAvg:

- ``small``: over the decoder.
- ``fresh``: over the larger model, from a LoRA that changes nothing.
- ``grown``: the same, over the larger model in which the LoRA of ``small`` is merged that the
  operator has grown (``fl_app.adapters.ligo.lora``). Every machine can grow it: the operator and
  the LoRA of ``small`` are all it takes.

Each run's test scores by round, and its message bytes until then, with set-up, are kept in
``docs/results/growing/adapter.json`` (see ``benchmarks.kept``). When all are there, the command
prints the table.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.numpy import load_file, save
from transformers import PreTrainedModel

from benchmarks import kept, ligo, markdown, runs
from fl_app import models
from fl_app.adapters.ligo import adapter, lora
from fl_app.adapters.ligo.operator import GrowthOperator, materialized
from fl_app.config import compose
from fl_app.files import atomic_file, atomic_folder
from fl_app.pretraining.llama import stream, train
from fl_app.runs import exported, trained
from fl_app.runs.merged import merged
from fl_app.runs.read import Run, is_run, read
from fl_app.simulation.in_process import run_experiment
from fl_app.tasks import build

SMALL, FRESH, GROWN = ARMS = ("small", "fresh", "grown")
WORDS = (
    "experiment=fedavg_lora data=word_problems task=word_problems model.max_length=96 "
    "model.max_answer_length=32 optimizer.lr=7e-3 rounds=6 local_epochs=2 "
    "data.validation_problems=0 logger=none"
)
STREAM = 2  # its seed
SEEDS = (0, 1, 2)
FILE = runs.RESULTS / "growing" / "adapter.json"  # in a folder of its own: it is no run's result
WORK = runs.RUNS / "bench-grown-adapter"


def main() -> None:
    """Do the runs that are missing, and print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help=f"{SEEDS} by default")
    given.add_argument("--json", type=Path, default=FILE, help="the file of the results")
    asked = given.parse_args()
    torch.set_num_threads(1)
    try:
        print(table(federations(asked.json, WORK, asked.seeds)))
    except ValueError as error:
        given.error(str(error))


def federations(
    file: Path, work: Path, seeds: Sequence[int], words: str = WORDS, steps: int = ligo.OPERATOR
) -> list[dict[str, Any]]:
    """Return the results of all arms and seeds, after the runs that the file lacks.

    Parameters
    ----------
    work : Path
        Folder of runs and models; what is complete there is not made again.
    words : str
        Overrides of all runs.
    steps : int
        Of the operator's training.

    Raises
    ------
    ValueError
        If the file is there with other settings.
    """

    def measure(seed: int, arm: str) -> dict[str, Any]:
        model = "llama-tiny" if arm == SMALL else str(larger(work, arm, seed, steps).absolute())
        run = run_of(work / f"{arm}-s{seed}", f"{words} model={model} seed={seed}")
        return {
            "score": [run.curve[at] for at in sorted(run.curve)],
            "bytes": [run.ledger.sent(until=at) for at in sorted(run.curve)],
            "trained": run.summary["trainable_scalars"],
        }

    settings = {"overrides": words, "operator_steps": steps, "stream": STREAM}
    asked = [{"seed": seed, "arm": arm} for seed, arm in product(seeds, ARMS)]
    return kept.measured(file, settings, asked, measure)


def larger(work: Path, arm: str, seed: int, steps: int) -> Path:
    """Return the folder of the larger model, with the LoRA of ``small`` in it for ``grown``."""
    folder = work / ("base" if arm == FRESH else f"base-with-lora-s{seed}")
    if folder.is_dir():
        return folder
    cfg = compose(ligo.WORDS)
    small, tokenizer = models.load(cfg.model, 0, cfg.task)
    grafted = adapter.attach(small, cfg.adapter, 0)
    learned = work / "operator.safetensors"
    if learned.is_file():
        adapter.set(grafted, load_file(learned))
    else:
        task = build(cfg, tokenizer, small.config)
        train(grafted, task, stream(STREAM, steps), steps, ligo.OPERATOR_RATE)
        work.mkdir(parents=True, exist_ok=True)
        atomic_file(learned, save(adapter.get(grafted)))
    whole: PreTrainedModel = materialized(grafted)
    if arm == GROWN:
        run = finished(work / f"{SMALL}-s{seed}")
        if run is None:
            raise ValueError(f"{work} has no run of {SMALL}, seed {seed}, whose LoRA can be grown")
        found = trained.load(trained.find(run.path))
        whole = merged(lora.grown(cast(GrowthOperator, grafted.ligo), found.model, whole))
    with atomic_folder(folder) as made:
        whole.save_pretrained(str(made))
        exported.save_tokenizer(tokenizer, made)
    return folder


def run_of(folder: Path, words: str) -> Run:
    """Return the completed run in ``folder``, after making it if there is none."""
    return finished(folder) or run_experiment(f"{words} output.dir={folder.absolute()}")


def finished(folder: Path) -> Run | None:
    """Return the first run below ``folder`` that has completed."""
    found = (read(one) for one in sorted(folder.glob("*")) if is_run(one))
    return next((run for run in found if run.status == "completed"), None)


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return a line per run: its scores, and when it is where ``fresh`` ends."""
    goals = {one["seed"]: one["score"][-1] for one in measured if one["arm"] == FRESH}
    rows = []
    for one in measured:
        goal = goals.get(one["seed"], float("inf"))
        at = next((i for i, score in enumerate(one["score"]) if score >= goal), None)
        reached = ["not reached", "-"] if at is None else [str(at), f"{one['bytes'][at]:,}"]
        scores = " ".join(f"{score:.3f}" for score in one["score"])
        rows.append([str(one["seed"]), one["arm"], f"{one['trained']:,}", scores, *reached])
    head = ["seed", "federation", "trained", "accuracy by round", "rounds to fresh's last", "bytes"]
    return markdown.table(head, rows)


if __name__ == "__main__":
    main()
