"""A path is a literal path: no character of it is a pattern, and nothing names a protocol."""

import json
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, load_dataset_builder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_app import data
from fl_app.config import compose
from fl_app.data import paths, sources, table

NAMES = [
    "data[1]", "data*", "data?", "a::b", "[!x]", "zip::data", "{a,b}", "a b", "ü", "50%20", "a#b",
    "~", "a=b,c (d)", "**",
]  # fmt: skip
DECOYS = ["data1", "data", "dataX", "a", "b", "x"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _first(path: Path) -> object:
    assert paths.is_source(str(path))
    return table.source("data.train.path", str(path))["train"][0]["a"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_of_any_name_is_the_one_that_is_read(suffix: str, tmp_path: Path) -> None:
    for name in [*NAMES, *DECOYS]:
        content = f"a\n{name}\n" if suffix == ".csv" else json.dumps({"a": name})
        if "," in name and suffix == ".csv":
            content = f'a\n"{name}"\n'
        (tmp_path / f"{name}{suffix}").write_text(content)
    for name in NAMES:
        assert _first(tmp_path / f"{name}{suffix}") == name


@pytest.mark.parametrize("kind", ["parquet", "folder", "folder of a folder", "saved", "splits"])
def test_folders_of_any_name_are_those_that_are_read(kind: str, tmp_path: Path) -> None:
    here = {}
    for name in [*NAMES[:5], *DECOYS]:
        rows = Dataset.from_list([{"a": name}])
        place = tmp_path / name
        plain = tmp_path / "plain"  # a name that `datasets` writes to
        if kind == "saved":
            rows.save_to_disk(plain)
        elif kind == "splits":
            DatasetDict({"train": rows}).save_to_disk(plain)
        else:
            inner = plain / "x[1]" if kind == "folder of a folder" else plain
            inner.mkdir(parents=True)
            end = ".parquet" if kind == "parquet" else ".csv"
            rows.to_parquet(tmp_path / "file") if kind == "parquet" else rows.to_csv(
                tmp_path / "file", index=False
            )
            (tmp_path / "file").rename(inner / f"rows[1]{end}")
        plain.rename(place)
        here[name] = place
    for name in NAMES[:5]:
        assert _first(here[name]) == name


def test_a_node_reads_its_own_path_literally(tmp_path: Path) -> None:
    for name in ("data[1]", "data1", "a::b"):
        (tmp_path / f"{name}.csv").write_text(f"a\n{name}\n")
    cfg = compose("data=table")
    for name in ("data[1]", "a::b"):
        assert data.own_rows(cfg.data, str(tmp_path / f"{name}.csv"))[0] == {"a": name}


@given(
    st.lists(
        st.sampled_from(["train", "test", "dev", "x", "data/train-00000-of-00001", "a/test"]),
        min_size=1, max_size=4, unique=True,
    )
)  # fmt: skip
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_splits_of_a_folder_are_those_of_datasets(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.csv").write_text("a\n1\n")
    known = load_dataset_builder(str(folder)).config.data_files
    found = sources.find("data.train.path", str(folder)).files
    assert found == {str(split): [str(file) for file in files] for split, files in known.items()}


def test_options_of_a_readme_are_kept_or_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\tb\n1\t2\n")
    readme = "---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n  {}\n---\n"
    (tmp_path / "README.md").write_text(readme.format('sep: "\\t"'))
    assert table.source("x", str(tmp_path))["train"][0] == {"a": "1", "b": "2"}
    (tmp_path / "README.md").write_text(readme.format("skiprows: 1"))
    with pytest.raises(ValueError, match=r"its README\.md sets skiprows, which is not supported"):
        table.source("x", str(tmp_path))


def test_a_data_set_of_the_hub_is_read_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are downloaded by their addresses, and read as those of this machine."""
    (tmp_path / "rows.csv").write_text("a\n007\n")
    builder = load_dataset_builder("csv", data_files=[str(tmp_path / "rows.csv")])
    address = "hf://datasets/organisation/rows@1/rows.csv"

    class Manager(datasets.DownloadManager):
        def download_and_extract(self, urls: object) -> object:
            assert urls == {"train": [address]}
            return {"train": [str(tmp_path / "rows.csv")]}

    builder.config.data_files = {"train": [address]}
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: builder)
    monkeypatch.setattr("datasets.download.DownloadManager", Manager)
    assert table.source("x", "organisation/rows")["train"][0] == {"a": "007"}
    builder.config.data_files = {"train": ["hf://datasets/other/rows@1/rows.csv"]}
    with pytest.raises(ValueError, match=r"its README\.md names files that are not in it"):
        table.source("x", "organisation/rows")
