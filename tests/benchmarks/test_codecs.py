"""`make bench-codecs` with tiny sizes: every table, file and number is there; nothing is timed."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from benchmarks import codecs, deltas, rate_distortion, speed
from fl_app.codecs import from_spec
from fl_app.tree import digest
from fl_app.wire.frame import HEADER_BYTES

SETS = 5


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a quick benchmark, one real change beside the Gaussian values."""
    folder = tmp_path_factory.mktemp("bench")
    change = np.random.default_rng(1).standard_t(3, (48, 48)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "newest", lambda: {"a run": {"w": change}})
        patch.setattr(speed, "allocate", lambda fresh: None)  # it would last for the whole suite
        patch.setattr(speed, "best", lambda run, seconds: 1.0)  # nothing is timed
        codecs.main(["--quick", "--out", str(folder)])
    return folder


def test_the_speed_table_is_complete_and_sane(out: Path) -> None:
    rows = read(out / "speed.csv")
    assert tuple(rows[0]) == speed.COLUMNS
    assert len({row["set"] for row in rows}) == SETS
    for name in ["memcpy", "memcpy into new memory", speed.BASE, *speed.CODECS]:
        assert len([row for row in rows if row["sender"] == name]) == SETS
    for row in rows:
        assert min(float(row["encode_s"]), float(row["decode_s"])) > 0
        assert float(row["bits_per_parameter"]) > 0
        assert 0 <= float(row["relative_error"]) < 1
    ours = [row for row in rows if row["codec"]]
    assert [from_spec(json.loads(row["codec"])).spec for row in ours] == [
        codec.spec for codec in speed.CODECS.values()
    ] * SETS
    for row in rows:
        if row["sender"] == speed.BASE:
            assert float(row["encode_x_bnb"]) == float(row["decode_x_bnb"]) == 1
            assert float(row["relative_error"]) == pytest.approx(0.092, abs=0.005)


def test_the_best_time_is_that_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def work() -> None:
        nonlocal clock
        clock += 0.5

    monkeypatch.setattr(speed.time, "process_time", lambda: clock)
    assert speed.best(work, seconds=2.0) == 0.5
    assert clock == 0.5 * (1 + 1 + 7)  # a warm-up, a first look at the duration, 7 measurements
    assert speed.best(lambda: None, seconds=0) > 0


def test_bits_count_the_whole_frame(out: Path) -> None:
    row = next(r for r in read(out / "speed.csv") if r["sender"] == "nf4")
    n = int(row["values"])
    payload = n // 2 + 4 * math.ceil(n / 64)
    assert float(row["bits_per_parameter"]) == pytest.approx(
        8 * (payload + HEADER_BYTES + 2) / n, 1e-5
    )


def test_no_code_of_gaussian_values_beats_the_bound(out: Path) -> None:
    rows = read(out / "rate_distortion.csv")
    assert tuple(rows[0]) == rate_distortion.COLUMNS
    assert {row["family"] for row in rows} == set(rate_distortion.families())
    assert {row["source"] for row in rows} == {"10,000 Gaussian values", "a run"}
    for row in rows:
        bits, error = float(row["bits_per_value"]), float(row["relative_error"])
        assert float(row["excess_bits"]) == pytest.approx(
            bits - max(0, -math.log2(error)), abs=1e-4
        )
        assert from_spec(json.loads(row["codec"]))
        if "Gaussian" in row["source"]:
            assert float(row["excess_bits"]) > 0


def test_the_picture_names_every_family(out: Path) -> None:
    svg = (out / "rate_distortion.svg").read_text()
    assert "a run" in svg
    for name in rate_distortion.families():
        assert f">{name}<" in svg
    assert (out / "rate_distortion.png").read_bytes().startswith(b"\x89PNG")


def test_goals_compare_what_was_measured() -> None:
    def point(bits: float, error: float, goal: float) -> rate_distortion.Point:
        codec = rate_distortion.entropy(rate_distortion.uniform(error=goal))
        return rate_distortion.Point("g", "uniform, entropy", bits, error, codec)

    met, missed = rate_distortion.goals(
        "g", [point(3.7, 0.0919, 0.092), point(1.3, 0.501, 0.5)]
    ).splitlines()
    assert met.endswith(": met")
    assert missed.endswith(": MISSED")


# ---- changes out of runs ------------------------------------------------------------------------

THETA0 = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def finished(root: Path, name: str, *, up: dict, adapter: str = "lora", **changes: str) -> Path:
    """Write the files of a run that has added 1 to everything."""
    folder = root / "runs" / name
    (folder / "checkpoints").mkdir(parents=True)
    save_file({k: x + 1 for k, x in THETA0.items()}, folder / "checkpoints/round-0002.safetensors")
    OmegaConf.save({"adapter": {"id": adapter}, "codec": {"up": up}}, folder / "config.yaml")
    summary = {"status": "completed", "overrides": "", "theta0_digest": digest(THETA0)} | changes
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    class Here:
        theta0 = THETA0

    monkeypatch.setattr(deltas, "open_session", lambda overrides: Here)
    monkeypatch.setattr(deltas, "project_root", lambda: tmp_path)
    return tmp_path


def test_a_change_is_the_last_round_less_theta0(root: Path) -> None:
    title, change = deltas.load(finished(root, "r", up={"id": "fp32"}))
    assert title == "lora fine-tuning (runs/r)"
    assert list(change) == list(THETA0)
    for name, x in change.items():
        assert x.shape == THETA0[name].shape
        assert (x == 1).all()


def test_runs_of_no_use_are_refused_with_the_reason(root: Path) -> None:
    links = {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4"}]}
    lossy = finished(root, "lossy", up={"id": "entropy", "inner": links})
    failed = finished(root, "failed", up={"id": "fp32"}, status="failed")
    other = finished(root, "other", up={"id": "fp32"}, theta0_digest="0" * 64)
    for folder, reason in [
        (lossy, "sent with loss"),
        (failed, "not a completed run"),
        (root / "none", "not a completed run"),
        (other, "another theta0"),
    ]:
        with pytest.raises(ValueError, match=reason):
            deltas.load(folder)
    assert deltas.newest() == [other]


def test_the_newest_run_of_each_adapter_is_chosen(root: Path) -> None:
    for age, (name, adapter) in enumerate([("c", "full"), ("b", "lora"), ("a", "lora")]):
        folder = finished(root, name, up={"id": "fp32"}, adapter=adapter)
        os.utime(folder / "summary.json", (1000 - age, 1000 - age))
    assert [folder.name for folder in deltas.newest()] == ["c", "b"]


def test_without_a_run_it_says_how_to_make_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codecs.newest() == {}
    assert deltas.COMMAND in capsys.readouterr().out


def test_a_run_asked_for_by_name_must_be_of_use(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        codecs.main(["--quick", "--run", str(root / "none"), "--out", str(root / "out")])
    assert "not a completed run" in capsys.readouterr().err
