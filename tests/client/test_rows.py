"""A node's own rows: which they are, what it refuses, and what the server learns of them."""

import json
from pathlib import Path

import pytest
from datasets import concatenate_datasets
from flwr.app import Context, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_app import data
from fl_app.build import open_session
from fl_app.client import rows as node_data
from fl_app.config import compose
from fl_app.data.pfl_docvqa_convert import main as convert
from fl_app.preflight import check_node
from fl_app.session import Session
from tests import small
from tests.pfl_docvqa import CLIENTS, write

TABLE = "data=table task=causal_lm model=llama-tiny"


def node(overrides: str, part: int, parts: int, path: object = None) -> Context:
    config = {"partition-id": part, "num-partitions": parts}
    if path is not None:
        config["data-path"] = str(path)
    return Context(
        run_id=1, node_id=1, node_config=config, state=RecordDict(),
        run_config={"overrides": overrides},
    )  # fmt: skip


@pytest.fixture(scope="module")
def here() -> Session:
    return open_session(small.RUN)


@pytest.fixture(scope="module")
def disks(here: Session, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What three hospitals have: each one partition, in a file of its own."""
    folder = tmp_path_factory.mktemp("disks")
    for k in range(3):
        here.documents(k).to_parquet(folder / f"{k}.parquet")
    return [folder / f"{k}.parquet" for k in range(3)]


def test_rows_on_disk_are_the_partition_that_they_were_made_of(here, disks) -> None:
    for k, path in enumerate(disks):
        found = node_data.rows(here, node(small.RUN, k, 3, path), k)
        assert found.to_list() == here.documents(k).to_list()


def test_a_node_without_a_path_serves_its_share_of_the_configured_data(here) -> None:
    found = node_data.rows(here, node(small.RUN, 1, 3), 1)
    assert found.to_list() == here.documents(1).to_list()


@given(st.integers(0, 2), st.integers(0, 2))
def test_a_node_with_rows_of_its_own_has_those_alone(here, disks, own: int, asked: int) -> None:
    context = node(small.RUN, own, 3, disks[own])
    if asked == own:
        assert len(node_data.rows(here, context, asked)) == len(here.documents(own))
    else:
        with pytest.raises(ValueError, match=f"this node holds {own} alone"):
            node_data.rows(here, context, asked)


def test_a_node_says_which_partitions_it_serves_and_no_more(disks) -> None:
    for context in (node(small.RUN, 2, 3), node(small.RUN, 2, 3, disks[2])):
        assert node_data.served(context) == (2, 3, [])


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_where_rows_are_private_it_says_how_many_each_partition_has(here, parts: int) -> None:
    overrides = f"{small.RUN} privacy=dp_sgd adapter=ffa_lora"
    for part in range(parts):
        _, _, rows = node_data.served(node(overrides, part, parts))
        assert rows == [len(here.documents(k)) for k in range(part, 3, parts)]


def test_private_rows_of_its_own_disk_are_counted_there(tmp_path: Path, here) -> None:
    both = concatenate_datasets([here.documents(k) for k in (0, 1)])
    both.to_parquet(tmp_path / "rows.parquet")
    overrides = f"{small.RUN} privacy=dp_sgd adapter=ffa_lora"
    served = node_data.served(node(overrides, 0, 3, tmp_path / "rows.parquet"))
    assert served == (0, 3, [len(both)])


def _empty(folder: Path) -> Path:
    path = folder / "empty.jsonl"
    path.write_text("")
    return path


def _pickled(folder: Path) -> Path:
    path = folder / "rows.pkl"
    path.write_bytes(b"\x80\x04.")
    return path


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("rows.jsonl", FileNotFoundError, "data-path='rows.jsonl' should be the absolute path"),
        ("/nowhere/x.csv", FileNotFoundError, "data-path='/nowhere/x.csv' should be the absolute"),
        (_empty, ValueError, r"data-path='.*empty.jsonl' cannot be read: it is empty"),
        (_pickled, ValueError, r"data-path='.*rows.pkl' should end in .csv"),
    ],
)
def test_a_path_that_cannot_be_is_said_before_the_first_round(
    path, error, says, tmp_path: Path
) -> None:
    where = path(tmp_path) if callable(path) else path
    with pytest.raises(error, match=says):
        node_data.served(node(small.RUN, 0, 3, where))


def test_as_many_nodes_as_clients_where_each_has_its_own_rows(disks) -> None:
    with pytest.raises(
        ValueError, match=r"one of 2 clients, .* federation\.clients=3: set it to 2"
    ):
        node_data.served(node(small.RUN, 0, 2, disks[0]))


@pytest.mark.parametrize("missing", ["partition-id", "num-partitions"])
def test_a_node_that_does_not_know_its_part_says_how_to_tell_it(missing: str) -> None:
    context = node(small.RUN, 0, 3)
    del context.node_config[missing]
    with pytest.raises(ValueError, match=f"lacks '{missing}': start the SuperNode with"):
        node_data.served(context)


# ---- tables and PFL-DocVQA ----------------------------------------------------------------------


@pytest.fixture
def rows_on_disk(tmp_path: Path) -> Path:
    rows = [
        {"query": f"q{i}", "response": f"r{i}", "site": "a" if i < 4 else "b"} for i in range(6)
    ]
    path = tmp_path / "hospital.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_table_is_read_as_the_run_says_of_its_own(rows_on_disk: Path) -> None:
    cfg = compose(
        f"{TABLE} +data.train.columns.query=instruction +data.train.columns.response=output "
        "+data.train.drop.site=[b] data.train.limit=3"
    )
    found = data.own_rows(cfg.data, str(rows_on_disk))
    assert found["instruction"][:] == ["q0", "q1", "q2"]
    assert {*found.column_names} == {"instruction", "output", "site"}


def test_neither_paths_of_the_server_nor_a_training_source_are_asked_of_a_node(
    rows_on_disk: Path,
) -> None:
    cfg = compose(f"{TABLE} data.train.path=null data.test.path=/only/on/the/server.jsonl")
    check_node(cfg)
    assert len(data.own_rows(cfg.data, str(rows_on_disk))) == 6


def test_the_server_needs_no_training_source(rows_on_disk: Path) -> None:
    cfg = compose(f"{TABLE} data.train.path=null data.test.path={rows_on_disk}")
    assert {*data.load(cfg.data, seed=0)} == {"test"}


def test_a_wrong_column_names_those_of_the_nodes_file(rows_on_disk: Path) -> None:
    cfg = compose(f"{TABLE} +data.train.columns.question=instruction")
    with pytest.raises(ValueError, match="names question; the columns are query, response, site"):
        data.own_rows(cfg.data, str(rows_on_disk))


def test_all_training_rows_of_a_converted_folder_are_the_nodes(tmp_path: Path) -> None:
    write(tmp_path / "source")
    folder = tmp_path / "out"
    assert convert([str(tmp_path / "source"), str(folder), "--i-trust-these-pickles"]) == 0
    cfg = compose("data=pfl_docvqa data.path=/only/on/the/server")
    found = data.own_rows(cfg.data, str(folder))
    assert len({*found["client"]}) == CLIENTS
    assert all(Path(picture).parent == folder / "pictures" for picture in found["picture"])
