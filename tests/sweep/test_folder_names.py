"""The names of a sweep's folders say what differs, however long the rest is."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app.sweep.names import LONGEST, folder_name, varying

SHARED = [f"data.train.columns={{column_{i}:{'x' * 20}}}" for i in range(8)]


def test_a_short_name_has_every_word() -> None:
    assert folder_name(3, ["codec=sign"], ["seed=1", "rounds=2"], {"seed"}) == (
        "003-codec-sign-seed-1-rounds-2"
    )


@given(st.integers(0, 8), st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
def test_what_differs_stays_where_what_is_shared_is_long(at: int, seeds: list[int]) -> None:
    names = []
    for number, seed in enumerate(seeds):
        words = [*SHARED[:at], f"optimizer.lr=1e-{seed}", *SHARED[at:]]
        name = folder_name(number, ["experiment=thin"], words, {"optimizer.lr"})
        assert "experiment-thin" in name
        assert name.endswith(f"optimizer.lr-1e-{seed}") or f"optimizer.lr-1e-{seed}-" in name
        assert len(name) <= LONGEST
        names.append(name[4:])
    assert len({*names}) == len(seeds)


def test_keys_are_shortened_before_values() -> None:
    words = [f"data.{'x' * 60}.path{i}=/a/{i}.csv" for i in range(3)]
    name = folder_name(0, [], words, {word.partition("=")[0] for word in words})
    assert name == "000-path0-a-0.csv-path1-a-1.csv-path2-a-2.csv"


def test_what_varies_is_read_from_hydras_record(tmp_path: Path) -> None:
    assert varying(tmp_path) == set()
    record = {
        "hydra": {
            "overrides": {"task": ["codec=nf4,sign", "+sweep=codecs", "rounds=3", "seed=range(3)"]},
            "sweeper": {"params": {"adapter.r": "4,8", "local_epochs": 3}},
        }
    }
    OmegaConf.save(OmegaConf.create(record), tmp_path / "multirun.yaml")
    assert varying(tmp_path) == {"codec", "seed", "adapter.r"}
    (tmp_path / "multirun.yaml").write_text("[")
    assert varying(tmp_path) == set()
