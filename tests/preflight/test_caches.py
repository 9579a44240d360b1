"""A home that is missing or cannot be written is said at once, and is no fault of the data."""

from pathlib import Path

import datasets
import pytest

from fl_app.config import ConfigError, compose
from fl_app.preflight import caches

TABLE = "data=table task=sequence_classification data.train.path=/a.csv data.test.path=/b.csv"


@pytest.mark.parametrize(
    "kept",
    [{"HOME": "/dev/null/x"}, {"HOME": "/", "XDG_CACHE_HOME": "/dev/null"}, {"HF_HOME": "x"}],
    ids=str,
)
def test_a_cache_that_cannot_be_written_is_named(kept: dict[str, str], monkeypatch) -> None:
    for name in ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"cannot be written \(HOME=.*set HF_DATASETS_CACHE"):
        caches.check(compose(TABLE))
    caches.check(compose())  # generated rows are kept nowhere
    monkeypatch.setenv("HF_DATASETS_CACHE", str(Path(__file__).parent / "not" / "there" / "yet"))
    caches.check(compose(TABLE))
    assert not (Path(__file__).parent / "not").exists()


def test_the_folder_is_that_of_datasets() -> None:
    assert caches.rows_cache() == Path(datasets.config.HF_DATASETS_CACHE)
