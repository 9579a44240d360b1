"""The competition's entries: sizes at full scale, bytes and conventions through the real pipe."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord
from torch import nn

from benchmarks.leaderboard import PUBLISHED
from fl_app import build as fl_build
from fl_app.adapters import ADAPTERS
from fl_app.aggregation.inner import inner_strategy
from fl_app.build import forget_session, open_session
from fl_app.config import compose, plain
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.session import Session
from fl_app.simulation.loopback import Loopback
from fl_app.wire.conventions import COLUMNS, GIGABYTE
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record
from tests import small


def small_run(entry: str) -> str:
    model = f"{small.VT5} model.config.prompt=decoder"
    return f"experiment={entry} {model} data=docvqa_mini {small.RUN} rounds=1"


def transfers(entry: str, tmp_path: Path) -> list:
    overrides = small_run(entry)
    here = open_session(overrides)
    check(here.cfg)
    ledger = Ledger(tmp_path / f"{entry}.csv")
    coded = Coded(inner_strategy(here.cfg), here, ledger, sends_theta0=True)
    grid = Loopback(overrides, nodes=3)
    coded.start(grid, to_record(here.theta0), num_rounds=1, train_config=ConfigRecord())
    return [row for row in ledger.rows if row.kind == "train"]


@pytest.mark.parametrize("entry", PUBLISHED)
def test_an_entry_trains_and_is_counted(entry: str, tmp_path: Path) -> None:
    cfg = compose(small_run(entry))
    rows = transfers(entry, tmp_path)
    assert len(rows) == 2 * cfg.clients_per_round
    nf4 = cfg.codec.up.id == "chain"
    for row in rows:
        if nf4:
            assert 4.5 * row.scalars <= 8 * row.payload_bytes < 4.6 * row.scalars
        else:
            assert row.payload_bytes == 4 * row.scalars


def test_the_two_lora_entries_differ_by_two_aliases_of_the_token_embedding(tmp_path: Path) -> None:
    """5.5272 GB and 0.3797 GB are one run: the log counted embed_tokens of both stacks."""
    counted = {}
    for entry in ("lora_baseline", "lora_tuned"):
        column = COLUMNS[compose(small_run(entry)).output.convention]
        counted[entry] = [getattr(row, column) for row in transfers(entry, tmp_path)]
    differences = {a - b for a, b in zip(*counted.values(), strict=True)}
    assert differences == {2 * 4 * small.TOKENS * small.WIDTH}

    model = open_session(small_run("lora_tuned")).model.get_base_model()
    names = {name for name, _ in model.named_parameters()}
    aliases = {name for name in model.state_dict() if name not in names}
    assert aliases == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert "lm_head.weight" in names


def meta_model() -> VT5ForConditionalGeneration:
    config = plain(compose("model=vt5-base-random").model.config)
    with torch.device("meta"):
        return VT5ForConditionalGeneration(VT5Config(**config))


def trained_scalars(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("entry", PUBLISHED)
def test_full_size_gives_the_published_total(entry: str) -> None:
    """What ``make leaderboard`` measures; here on shapes alone, so that it is quick."""
    cfg = compose(f"experiment={entry} data=docvqa_mini")
    model = ADAPTERS[cfg.adapter.id].attach(meta_model(), cfg.adapter, 0)
    bits = 4.5 if cfg.codec.up.id == "chain" else 32
    aliased = 2 * 32128 * 768 if cfg.output.convention == "competition" else 0
    bytes_per_transfer = bits * trained_scalars(model) / 8 + 4 * aliased
    total = 2 * cfg.rounds * cfg.clients_per_round * bytes_per_transfer / GIGABYTE
    digits = len(PUBLISHED[entry].partition(".")[2])
    assert f"{total:.{digits}f}" == PUBLISHED[entry]


def test_fedshampoo_freezes_every_embedding_table() -> None:
    cfg = compose("experiment=fedshampoo data=docvqa_mini")
    model = ADAPTERS["full"].attach(meta_model(), cfg.adapter, 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and not name.startswith("visual_encoder"):
            assert not module.weight.requires_grad, name
    assert trained_scalars(model) == 224_085_504


@pytest.mark.parametrize("words", ["", "adapter.r=72 adapter.target_modules=[q,k,v,o]"])
def test_ranks_that_weigh_the_same_as_fedshampoo_lora(words: str) -> None:
    cfg = compose(f"experiment=fedshampoo_lora data=docvqa_mini {words}")
    scalars = trained_scalars(ADAPTERS["lora"].attach(meta_model(), cfg.adapter, 0))
    assert scalars == 15_925_248
    published = float(PUBLISHED["fedshampoo_lora"]) * GIGABYTE / (5 * 2 * 2 * 4)
    assert math.isclose(scalars, published, rel_tol=1e-4)


def test_the_model_is_built_once_per_process(tmp_path: Path, monkeypatch) -> None:
    built: list[Session] = []

    def build(**parts: Any) -> Session:
        built.append(Session(**parts))
        return built[-1]

    monkeypatch.setattr(fl_build, "Session", build)
    forget_session()
    transfers("nf4_lora", tmp_path)
    assert len(built) == 1
    forget_session()
