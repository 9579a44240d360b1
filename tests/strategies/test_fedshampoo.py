"""FedShampoo through the real pipe: frozen embeddings, and one client is central training."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord
from torch import nn

from fl_app import models
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.seeds import turn_seed
from fl_app.server.coded import Coded
from fl_app.simulation.loopback import Loopback
from fl_app.training.loop import train
from fl_app.tree import Tree
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record, to_tree
from tests import small

RUN = (
    f"experiment=fedshampoo {small.VT5} model.config.prompt=decoder data=docvqa_mini {small.RUN} "
    "rounds=1 clients_per_round=1 local_epochs=2 batch_size=1 optimizer.root_interval=2"
)


def one_round(folder: Path) -> tuple[Tree, int]:
    """The model after a round, and the client that trained it."""
    here = open_session(RUN)
    ledger = Ledger(folder / "ledger.csv")
    coded = Coded(inner_strategy(here.cfg), here, ledger)
    result = coded.start(
        Loopback(RUN, nodes=3), to_record(here.theta0), num_rounds=1, train_config=ConfigRecord()
    )
    trained = {row.partition for row in ledger.rows if row.kind == "train"}
    return to_tree(result.arrays, like=here.theta0), trained.pop()


def test_embedding_tables_are_not_sent_and_stay_as_they_were(tmp_path: Path) -> None:
    tree, _ = one_round(tmp_path)
    here = open_session(RUN)
    fresh, _ = models.load_vt5(here.cfg.model, here.cfg.seed)
    tables = [n for n, m in fresh.named_modules() if isinstance(m, nn.Embedding)]
    assert {"shared", "spatial.x", "spatial.y"} < {*tables}
    for name in tables:
        assert f"{name}.weight" not in tree
        assert torch.equal(
            here.model.get_submodule(name).weight, fresh.get_submodule(name).weight
        ), name
    assert any(not np.array_equal(tree[n], here.theta0[n]) for n in tree)


def test_a_round_of_one_client_is_central_training(tmp_path: Path) -> None:
    tree, client = one_round(tmp_path)
    here = open_session(RUN)
    here.adapter.set(here.model, here.theta0)
    train(
        here.model,
        here.documents(client),
        here.task,
        here.cfg.optimizer,
        epochs=2,
        batch_size=1,
        seed=turn_seed(here.cfg.seed, 1, client),
    )
    central = here.adapter.get(here.model)
    assert all(np.array_equal(tree[name], central[name]) for name in central)
