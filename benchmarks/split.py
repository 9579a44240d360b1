"""``python -m benchmarks.split``: up to how many examples SFPrompt sends less than whole models.

In a round a client of full fine-tuning gets and sends |W| values of 4 bytes. One of SFPrompt gets
and sends the P values that are trained, and for each pass of split training over an example
2 (s + r) h values of b bits, of its s states (those of its tokens, visual tokens and prompts) and
the r that the tail reads. It sends less while its passes in a round are below ::

    E* = 8 (|W| - P) / B,    B = 2 (s + r) h b / 8

s and r are means over the rows of client 0, b is what the run's codec of states needs for a value.
The rows of an exchange, whose places are told in 16 bytes each, are left out, and so are headers.

``python -m benchmarks.split --visual`` does a round of ten pages, in this process, for each number
of visual tokens that QueCC leaves, and prints what its ledger says.

``python -m benchmarks.split --node`` starts a SuperLink and a SuperNode on this machine, does a
round of 41 exchanges, and prints the seconds of one, and how many of them the client worked.

Further arguments are overrides of all runs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from datasets import Dataset
from flwr.serverapp import Grid
from omegaconf import OmegaConf

from benchmarks.markdown import table
from deploy.deployment import DeploymentError, deployment
from fl_app import models
from fl_app.adapters import full
from fl_app.build import open_session
from fl_app.codecs import from_spec
from fl_app.config import joined, plain
from fl_app.models.cut import Cut
from fl_app.server_app import Experiment
from fl_app.session import Session
from fl_app.simulation.loopback import Loopback
from fl_app.tasks.evaluation import batches
from fl_app.tree import Tree, scalars
from fl_app.wire import ledger
from strategies._layout import layout_of

CLASSIFIER = (
    "model=huggingface model.path=random model.tokenizer=embedded:llama_tiny model.max_length=32 "
    "model.config={model_type:bert,vocab_size:700,hidden_size:128,num_hidden_layers:4,"
    "num_attention_heads:4,intermediate_size:256,max_position_embeddings:64,initializer_range:0.1} "
    "data=word_problems task=sequence_classification task.texts=[instruction] task.label=kind "
    "task.labels=[pond,library,orchard,harbour,sky,workshop] model.max_answer_length=1"
)
PAGES = "data=docvqa_mini task=docvqa data.providers_per_client=8"
SETTINGS = {
    "BERT, kinds of story": CLASSIFIER,
    "Llama, word problems": "",
    "VT5, invoices": f"model=vt5-tiny {PAGES}",
    "VT5 with 16 visual tokens, marks": f"model=vt5-tiny-quecc {PAGES} data.marks=1 "
    "model.max_length=64",
}
SIDE = 16  # patches along a side of the picture
STRIDES = (1, 2, 4, 8, 16)
ROUND = (
    f"{SETTINGS['VT5 with 16 visual tokens, marks']} rounds=1 clients_per_round=1 "
    "federation.clients=2 data.providers_per_client=2 data.test_documents=1 "
    "data.validation_documents=0 data.unseen_providers=1 data.unseen_documents_per_provider=1 "
    "data.public_documents=1 strategy.local.gamma=1.0 strategy.local.local_loss=false logger=none"
)
NODE = (
    "rounds=1 clients_per_round=1 batch_size=1 federation.clients=1 data.providers_per_client=1 "
    "data.problems_per_provider=40 data.test_problems=1 data.validation_problems=0 "
    "data.unseen_providers=1 data.unseen_problems_per_provider=1 logger=none"
)
NODE_SECONDS = 1200


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visual", action="store_true", help="rounds by their visual tokens")
    parser.add_argument("--node", action="store_true", help="seconds of an exchange")
    given, more = parser.parse_known_args()
    if given.visual:
        print(visual(more))
    elif given.node:
        print(latency(more))
    else:
        print(crossings(more))


# ---- formula -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """What the formula needs.

    Attributes
    ----------
    whole, trained : int
        |W| and P.
    width : int
        h.
    states, read : float
        s and r of an example.
    bits : float
        b.
    """

    whole: int
    trained: int
    width: int
    states: float
    read: float
    bits: float

    @property
    def bytes_a_pass(self) -> float:
        """B."""
        return 2 * (self.states + self.read) * self.width * self.bits / 8

    @property
    def passes(self) -> float:
        """E*."""
        return 8 * (self.whole - self.trained) / self.bytes_a_pass


def sizes(here: Session, rows: Dataset) -> Sizes:
    """Return the sizes of a run's model, and of these rows."""
    states, read = counted(here, rows)
    width = next(x.shape[1] for name, x in here.theta0.items() if name.startswith("prompt_encoder"))
    codec = from_spec(plain(here.cfg.strategy.states))
    values: Tree = {"values": torch.randn(64, width).numpy()}
    wire, _ = codec.encode(values, codec.init(values, 0), values)
    return Sizes(
        whole=whole(here),
        trained=scalars(here.theta0),
        width=width,
        states=states / len(rows),
        read=read / len(rows),
        bits=8 * wire.nbytes / values["values"].size,
    )


def whole(here: Session) -> int:
    """Return the values that full fine-tuning sends."""
    base, _ = models.load(here.cfg.model, here.cfg.seed, here.cfg.task)
    return scalars(full.get(full.attach(base, OmegaConf.create({"freeze": []}), here.cfg.seed)))


def counted(here: Session, rows: Dataset) -> tuple[int, int]:
    """Return the states of rows, and those that the tail reads."""
    cut = Cut(here.model, here.cfg.strategy.local.head_blocks)
    found = []
    with torch.no_grad():
        for some in batches(rows):
            batch = {name: x.to(here.device) for name, x in here.task.training(some).items()}
            found.append(layout_of(here.model, batch["labels"], cut.head(batch)[1]).cpu())
    states, _, read = torch.cat(found).sum(0).tolist()
    return states, read


def crossings(more: Sequence[str]) -> str:
    """Return the table of the formula."""
    lines = []
    for name, words in SETTINGS.items():
        here = open_session(["experiment=sfprompt", *words.split(), *more])
        one = sizes(here, here.documents(0))
        lines.append(
            [name, f"{one.whole:,}", f"{one.trained:,}", f"{one.width}", f"{one.states:.1f}",
             f"{one.read:.1f}", f"{one.bytes_a_pass:,.0f}", f"{one.passes:,.0f}"]
        )  # fmt: skip
    return table(("model and rows", "&#124;W&#124;", "P", "h", "s", "r", "B", "E*"), lines)


# ---- rounds --------------------------------------------------------------------------------------


def done(words: Sequence[str]) -> tuple[Session, ledger.Transfers]:
    """Do a run in this process; return its session and its ledger."""
    with TemporaryDirectory() as folder:
        line = joined([*words, f"output.dir={folder}", "output.name=run"])
        here = open_session(line)
        grid = cast(Grid, Loopback(line, here.cfg.federation.clients))
        Experiment(here, grid, line, setup_seconds=0.0).start()
        return here, ledger.read(Path(folder) / "run" / "ledger.csv")


def visual(more: Sequence[str]) -> str:
    """Return the table of rounds by their visual tokens."""
    lines = []
    for stride in STRIDES:
        tokens = (SIDE // stride) ** 2
        words = f"experiment=sfprompt {ROUND} model.config.quecc.stride={stride}"
        rows = done([*words.split(), *more])[1].rows
        split = [row for row in rows if row.kind == "split"]
        lines.append(
            [f"{tokens}", f"{sum(row.payload_bytes for row in split):,}",
             f"{sum(row.message_bytes for row in split):,}",
             f"{sum(row.message_bytes for row in rows if row.kind == 'train'):,}"]
        )  # fmt: skip
        print(*lines[-1], file=sys.stderr, flush=True)
    return table(
        ("visual tokens", "states and gradients", "their messages", "messages of the prompts"),
        lines,
    )


def latency(more: Sequence[str]) -> str:
    """Return the seconds of an exchange with a real node.

    Raises
    ------
    DeploymentError
        If the run fails.
    """
    with TemporaryDirectory() as folder, deployment(Path(folder), nodes=1) as here:
        line = joined(["experiment=sfprompt", *NODE.split(), *more, f"output.dir={folder}/runs"])
        run = here.submit(f"{line} output.name=run")
        if here.wait(run, NODE_SECONDS) != "finished:completed":
            raise DeploymentError(here.log(run))
        where = Path(folder) / "runs" / "run"
        seconds = json.loads((where / "summary.json").read_text())["seconds"]
        rows = ledger.read(where / "ledger.csv").rows
    asked = sum(row.direction == "down" and row.kind in ("train", "split") for row in rows)
    waited = seconds["total"] - seconds["setup"] - seconds["evaluate"]
    return (
        f"{asked} exchanges, {waited / asked:.2f} s each, of which the client worked "
        f"{seconds['train'] / asked:.2f} s"
    )


if __name__ == "__main__":
    main()
