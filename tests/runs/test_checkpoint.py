"""Checkpoints: what goes in comes out, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fl_app import files
from fl_app.aggregation import inner_state
from fl_app.runs import checkpoint
from fl_app.runs.checkpoint import CheckpointError, load, save

TREE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(3.5, np.float32)}
leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text() | st.binary(max_size=20)
    | st.floats(allow_nan=False)
    | arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=0, min_side=0, max_side=3),
        elements={"allow_nan": False},
    )
)  # fmt: skip
states = st.recursive(
    leaves,
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.text(), part, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text(), states, max_size=4))
def test_what_was_saved_is_loaded(tmp_path_factory, state) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 3, TREE, state)
    tree, found = load(folder)
    assert {n: x.tolist() for n, x in tree.items()} == {n: x.tolist() for n, x in TREE.items()}
    assert same(state, found)


def test_flowers_records_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, TREE, {"start": ArrayRecord({n: Array(x) for n, x in TREE.items()})})
    _, state = load(tmp_path)
    assert [*state["start"]] == [*TREE]
    np.testing.assert_array_equal(state["start"]["w"].numpy(), TREE["w"])


def test_the_last_one_replaces_the_others_and_frames_are_kept_once(tmp_path: Path) -> None:
    save(tmp_path, 1, TREE, {"patches": [b"one"], "frame": b"first"})
    kept = next((tmp_path / "frames").glob("*")).stat().st_mtime_ns
    save(tmp_path, 2, TREE, {"patches": [b"one", b"two"], "frame": b"second"})
    assert [path.name for path in tmp_path.glob("round-*")] == ["round-0002.safetensors"]
    assert {path.read_bytes() for path in (tmp_path / "frames").iterdir()} == {
        b"one", b"two", b"second",
    }  # fmt: skip
    assert kept in {path.stat().st_mtime_ns for path in (tmp_path / "frames").iterdir()}
    assert load(tmp_path)[1] == {"patches": [b"one", b"two"], "frame": b"second"}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "missing") is None


@pytest.mark.parametrize("file", [0, 1, 2, 3])
def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch, file: int) -> None:
    save(tmp_path, 1, TREE, {"frames": [b"a", b"b"]})
    calls = iter(range(99))

    def full(path: Path, data: bytes) -> None:
        if next(calls) == file:
            path.with_name("torn").write_bytes(data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        files.atomic_file(path, data)

    monkeypatch.setattr(checkpoint, "atomic_file", full)
    other = {name: np.asarray(x + 1) for name, x in TREE.items()}
    if file < 3:  # two frames and the model
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, 2, other, {"frames": [b"c", b"d"]})
    else:
        save(tmp_path, 2, other, {"frames": [b"c", b"d"]})
    tree, state = load(tmp_path)
    assert state == {"frames": [b"a", b"b"] if file < 3 else [b"c", b"d"]}
    np.testing.assert_array_equal(tree["w"], (TREE if file < 3 else other)["w"])


@pytest.mark.parametrize("spoil", ["cut", "noise", "no frame", "another program's"])
def test_a_damaged_checkpoint_says_so(tmp_path: Path, spoil: str) -> None:
    save(tmp_path, 1, TREE, {"frame": b"abc"})
    file = tmp_path / "round-0001.safetensors"
    data = file.read_bytes()
    if spoil == "no frame":
        next((tmp_path / "frames").iterdir()).unlink()
    elif spoil == "another program's":
        from safetensors.numpy import save_file

        save_file(TREE, file)
    else:
        file.write_bytes(data[: len(data) // 2] if spoil == "cut" else b"\xff" * len(data))
    with pytest.raises(CheckpointError, match=r"round-0001.*cannot be read"):
        load(tmp_path)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a set cannot be kept"):
        save(tmp_path, 1, TREE, {"x": {1, 2}})


def test_a_strategys_moments_are_its_state(caplog) -> None:
    first, second = FedAdam(eta=0.1), FedAdam(eta=0.1)
    first.m_t, first.v_t = {"w": TREE["w"]}, {"w": TREE["w"] ** 2}
    inner_state.put(second, inner_state.get(first))
    np.testing.assert_array_equal(second.m_t["w"], first.m_t["w"])
    np.testing.assert_array_equal(second.v_t["w"], first.v_t["w"])
    assert second.train_metrics_aggr_fn is not None
    assert caplog.text == ""


def test_what_a_resumed_run_would_lack_is_said_once(caplog) -> None:
    class Forgetful(FedAvg):
        pass

    strategy = Forgetful()
    strategy.rng = np.random.default_rng(0)
    for _ in range(2):
        assert "rng" not in inner_state.get(strategy)
    assert caplog.text.count("Forgetful.rng (Generator) is not kept") == 1
