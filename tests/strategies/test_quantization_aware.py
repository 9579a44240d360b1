"""Quantization-aware turns in a federation: what is sent is on the grid, and is relayed."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fl_app.build import open_session
from fl_app.codecs import from_spec
from fl_app.config import ConfigError, compose
from fl_app.config.keys import plain
from fl_app.training.local import Answer, Assignment
from fl_app.tree import Tree
from fl_app.wire.frame import unpack
from strategies.quantization_aware import QuantizationAwareClient, quantizer
from tests import small
from tests.server.test_coded import Rounds, cohort, frame, same

MEAN = "strategy=quantization_aware strategy.inner._target_=flwr.serverapp.strategy.FedAvg"
GRID = {"id": "uniform", "error": 0.4, "centroid": False, "grid": True, "scope": "tensor"}
AWARE = f"{small.RUN} experiment=thinnest local_epochs=1 turns=[]"


def levels(x: np.ndarray) -> np.ndarray:
    size = np.abs(x[x != 0]).astype(np.float64)
    return size / size.min() if size.size else size


def test_what_is_sent_lies_on_a_grid_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, AWARE)
    here = rounds.here
    tree, _ = rounds.round(1)
    for name, values in tree.items():
        steps = levels(values - here.theta0[name])
        assert np.allclose(steps, np.rint(steps), atol=1e-3)
        assert 0 < np.count_nonzero(values - here.theta0[name]) < values.size
    wire, _ = here.up.encode(tree, here.up.init(here.theta0), here.theta0)
    assert same(here.up.decode(wire, here.theta0), tree)


def test_the_first_download_is_the_seed_and_the_second_the_first_reply(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, AWARE)
    rounds.round(1)
    kept = rounds.tree
    first, up = (
        next(r for r in rounds.ledger.rows if r.direction == way and r.kind == "train")
        for way in ("down", "up")
    )
    assert first.payload_bytes == 0
    (message,) = rounds.coded.configure_train(2, rounds.arrays, ConfigRecord(), rounds.grid)
    wire = unpack(frame(message), rounds.here.down, rounds.here.manifest)
    assert wire.nbytes == up.payload_bytes
    assert same(rounds.here.down.decode(wire, rounds.here.theta0), kept)


def test_later_rounds_send_the_change_since_the_broadcast_on_another_grid(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, AWARE)
    first, _ = rounds.round(1)
    second, _ = rounds.round(2)
    for name, values in second.items():
        steps = levels(values - first[name])
        assert np.allclose(steps, np.rint(steps), atol=2e-2)
    assert len({*cohort(rounds.ledger.rows)}) == 2
    # A change since another start than theta0 is not a model that a next client could read.
    assert not rounds.coded.downlink.relays(first)
    assert rounds.coded.downlink.relays(rounds.here.theta0)


@pytest.mark.parametrize(
    "up",
    [
        "{id:uniform,bits:3,grid:true}",
        "{id:uniform,adaptive:true,grid:true,scope:tensor}",
        "{id:ternary}",
        "{id:entropy,inner:{id:ternary,scope:tree}}",
        "{id:sign}",
        "{id:chain,links:[{id:delta},{id:sign,scope:tree}]}",
    ],
)
def test_any_adapter_and_quantizer_loses_nothing(
    up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, f"{MEAN} adapter=ffa_lora codec.up={up} clients_per_round=2")
    exact: list[Tree] = []
    run = QuantizationAwareClient.run

    def watched(self: QuantizationAwareClient, given: Assignment) -> Answer:
        answer = run(self, given)
        exact.append(answer.parts["model"])
        return answer

    monkeypatch.setattr(QuantizationAwareClient, "run", watched)
    rounds.round(1)
    assert len(exact) == 2
    here = rounds.here
    for tree in exact:
        wire, _ = here.up.encode(tree, here.up.init(here.theta0), here.theta0)
        decoded = here.up.decode(wire, here.theta0)
        for name, values in tree.items():
            np.testing.assert_allclose(decoded[name], values, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"id": "nf4"}, "should be one of uniform, ternary, sign"),
        ({"id": "error_feedback", "inner": {"id": "ternary"}}, "nothing around it but entropy"),
        ({"id": "sign", "scope": 64}, "groups inside of tensors"),
        ({**GRID, "grid": False}, "without grid: true"),
    ],
)
def test_a_codec_that_leaves_the_grid_is_refused(spec: dict, message: str) -> None:
    from_spec(spec)
    with pytest.raises(ValueError, match=message):
        QuantizationAwareClient(spec)


def test_the_quantizer_is_found_behind_lossless_stages() -> None:
    found, has_delta = quantizer(plain(compose("codec=grid").codec.up))
    assert found == GRID
    assert has_delta
    assert quantizer({"id": "entropy", "inner": {"id": "ternary"}}) == ({"id": "ternary"}, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1.0}, r"start=1\.0 should be in \[0, 1\)"),
        ({"turns": [{"err": 1}]}, r"turns\[0\]\.err should be one of error, shrink"),
        ({"turns": [{"error": 1.5}]}, r"turns\[0\]\.error=1\.5 should be in"),
        ({"turns": [{}, {"shrink": {"x": -1}}]}, r"turns\[1\]\.shrink=-1 should be in"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizationAwareClient(GRID, **arguments)


def test_errors_of_tensors_need_steps_of_tensors() -> None:
    with pytest.raises(ValueError, match="one step for all"):
        QuantizationAwareClient({**GRID, "scope": "tree"}, turns=[{"error": {"x": 0.5}}])
    with pytest.raises(ValueError, match="error is for uniform"):
        QuantizationAwareClient({"id": "sign"}, turns=[{"error": 0.5}])


def test_a_tensor_that_nobody_trains_is_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match=r"turns\[0\]\.shrink\.words: no trained tensor's name"):
        open_session(f"{AWARE} strategy.local.turns=[{{shrink:{{words:0.1}}}}]")
    with pytest.raises(ConfigError, match="_target_"):
        compose(f"{AWARE} strategy.local.turns=[{{_target_:x}}]")
