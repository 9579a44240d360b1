"""PFL-DocVQA: from files in the competition's format to a training step, and what is refused."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.config import CONF_DIR, ConfigError, compose
from fl_app.data import client_split, load
from fl_app.data.pfl_docvqa import _truncated
from fl_app.data.pfl_docvqa_convert import convert, main, to_thousandths
from fl_app.files import installed
from fl_app.preflight import check
from fl_app.server.coded import Coded
from fl_app.wire.ledger import Ledger
from fl_app.wire.records import to_record
from tests import pfl_docvqa as files
from tests.data.conftest import TRUST
from tests.loopback import Loopback

TINY = sorted(path.stem for path in (CONF_DIR / "model").glob("vt5-tiny*.yaml"))


def config(path: Path, more: str = ""):
    return compose(f"data=pfl_docvqa data.path={path} {more}")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- what comes out ---------------------------------------------------------------------------


def test_every_question_is_a_row_in_the_files_order(converted: Path) -> None:
    splits = load(config(converted).data, 0)
    assert set(splits) == {"train", "test"}
    train = splits["train"].to_list()
    assert [row["client"] for row in train] == [k for k in range(10) for _ in range(3)]
    first = train[0]
    assert first["words"] == ["total", "eur", "0"]
    assert first["boxes"] == [[100, 200, 200, 250], [500, 200, 580, 250], [600, 200, 999, 1000]]
    assert first["answers"] == [["eur 0", "0"]]
    assert first["questions"] == ["What is the total?"]
    assert (first["tags"], first["fields"]) == ([0, 0, 0], [""])
    assert (first["document"], first["provider"]) == ("doc0a_0", "provider0a")
    test = splits["test"].to_list()
    assert [row["answers"][0][1] for row in test] == ["7", "8"]
    assert {row["client"] for row in test} == {-1}
    assert {row["provider"] for row in test} == {""}


def test_partitions_are_those_of_data_points(source: Path, converted: Path) -> None:
    cfg = config(converted)
    train = load(cfg.data, 0)["train"]
    data_points = json.loads((source / "data_points.json").read_text())
    for client in range(10):
        rows = client_split(train, cfg.data.partitioner, client, 10, 0).to_list()
        records = np.load(source / f"imdb_train_client_{client}.npy", allow_pickle=True)
        providers = {i: p for p, of in data_points[f"client_{client}"].items() for i in of}
        assert [row["document"] for row in rows] == [r["image_name"] for r in records[1:]]
        assert [row["provider"] for row in rows] == [providers[i] for i in range(1, len(records))]


def test_pictures_are_the_published_ones_and_survive_the_source(damaged, tmp_path: Path) -> None:
    before = contents(damaged)
    convert(damaged, tmp_path / "out")
    shutil.rmtree(damaged)
    for row in load(config(tmp_path / "out").data, 0)["train"].to_list():
        name = f"images/{row['document']}.jpg"
        assert Path(row["picture"]).is_absolute()
        assert Path(row["picture"]).read_bytes() == before[name]


def test_the_same_source_gives_the_same_bytes(source: Path, converted: Path, tmp_path) -> None:
    convert(source, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(converted)
    assert not [p for p in converted.parent.iterdir() if p != converted]  # nothing left beside


def test_a_record_that_no_provider_lists_is_kept(damaged: Path, tmp_path: Path) -> None:
    data_points = json.loads((damaged / "data_points.json").read_text())
    del data_points["client_4"]["provider4b"]
    (damaged / "data_points.json").write_text(json.dumps(data_points))
    rows = convert(damaged, tmp_path / "out")["train"].to_list()
    assert [r["provider"] for r in rows if r["client"] == 4] == ["provider4a", "provider4a", ""]


def test_a_page_without_words_is_kept(damaged: Path, tmp_path: Path) -> None:
    empty = {**files.record("val_0", 7), "ocr_tokens": [], "ocr_normalized_boxes": []}
    files.write_records(damaged / "imdb_val.npy", [empty])
    (row,) = convert(damaged, tmp_path / "out")["test"].to_list()
    assert row["words"] == row["boxes"] == []


near_the_page = npst.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(0, 5), st.just(4)),
    elements=st.floats(-1, 2, width=32),
)


@given(near_the_page)
def test_boxes_are_clipped_to_the_page_and_within_a_thousandth(boxes: np.ndarray) -> None:
    got = to_thousandths(boxes)
    assert got.shape == boxes.shape
    assert ((got >= 0) & (got <= 1000)).all()
    inside = np.clip(boxes.astype(np.float64), 0, 1)
    assert (np.abs(got / 1000 - inside) <= 0.001 + 1e-9).all()


@given(near_the_page | npst.arrays(np.float64, (3, 4), elements=st.floats(0, 1)))
def test_truncated_boxes_are_those_of_the_competitions_code(boxes: np.ndarray) -> None:
    import pyarrow as pa

    page = to_thousandths(boxes).tolist()
    column = pa.array([[], page, page], pa.list_(pa.list_(pa.int16(), 4)))
    truncated = np.clip(boxes, 0, 1).astype(np.int64).tolist()
    assert _truncated(column).to_pylist() == [[], truncated, truncated]
    assert _truncated(column[2:]).to_pylist() == [truncated]


def test_truncate_boxes_is_an_option(converted: Path) -> None:
    rows = load(config(converted, "data.truncate_boxes=true").data, 0)["train"].to_list()
    assert rows[0]["boxes"] == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert rows[0]["words"] == ["total", "eur", "0"]


# ---- training ---------------------------------------------------------------------------------


def test_two_clients_train_and_a_third_evaluates(converted: Path, tmp_path: Path) -> None:
    overrides = (
        f"data=pfl_docvqa data.path={converted} strategy=fedavg clients_per_round=2 "
        "evaluate_clients_per_round=1 local_epochs=1 batch_size=2"
    )
    here = open_session(overrides)
    ledger = Ledger(tmp_path / "ledger.csv")
    coded = Coded(inner_strategy(here.cfg), here, ledger)
    result = coded.start(
        Loopback(overrides, nodes=10), to_record(here.theta0), num_rounds=1,
        train_config=ConfigRecord(), evaluate_config=ConfigRecord(),
    )  # fmt: skip
    done = [(row.kind, row.direction) for row in ledger.rows if row.kind != "setup"]
    assert done == [("train", "down"), ("train", "up")] * 2 + [
        ("evaluate", "down"),
        ("evaluate", "up"),
    ]
    assert result.train_metrics_clientapp[1]["loss"] > 0
    assert 0 <= result.evaluate_metrics_clientapp[1]["anls"] <= 1
    assert {*here.evaluate(here.theta0, here.data["test"])} == {"anls", "accuracy"}


@pytest.mark.parametrize("model", TINY)
def test_the_published_picture_is_what_a_visual_model_sees(converted: Path, model: str) -> None:
    here = open_session(f"data=pfl_docvqa data.path={converted} model={model}")
    rows = here.documents(0).to_list()
    others = [{**row, "picture": here.data["test"][0]["picture"]} for row in rows]
    with torch.inference_mode():
        loss, other = (here.model(**here.task.training(x)).loss for x in (rows, others))
    assert torch.isfinite(loss)
    sees = any("visual_encoder" in name for name, _ in here.model.named_modules())
    assert sees == model.endswith(("visual", "quecc"))
    assert bool(loss != other) == sees


def test_a_page_without_words_trains(converted: Path) -> None:
    here = open_session(f"data=pfl_docvqa data.path={converted} +model.config.prompt=encoder")
    rows = here.documents(0).to_list()
    rows[0] |= {"words": [], "boxes": [], "tags": []}
    for batch in rows[:1], rows:
        assert torch.isfinite(here.model(**here.task.training(batch)).loss)


# ---- trust ------------------------------------------------------------------------------------


class Trap:
    """A record that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.fixture
def trap(damaged: Path, tmp_path: Path) -> Path:
    rest = [files.record("doc0a_0", 0)] * 2
    files.write_records(damaged / "imdb_train_client_0.npy", [Trap(tmp_path / "trace"), *rest])
    return tmp_path / "trace"


def test_nothing_is_unpickled_without_the_flag(damaged, trap, tmp_path, capsys) -> None:
    assert main([str(damaged), str(tmp_path / "out")]) == 2
    assert not trap.exists()
    assert not (tmp_path / "out").exists()
    assert TRUST in capsys.readouterr().err


def test_the_flag_executes_what_the_file_holds(damaged, trap, tmp_path, capsys) -> None:
    assert main([str(damaged), str(tmp_path / "out"), TRUST]) == 1
    assert trap.read_text() == "executed"
    assert "imdb_train_client_0.npy, record 1: should be a dict" in capsys.readouterr().err


def test_the_loader_executes_nothing(damaged, trap, converted) -> None:
    with pytest.raises(FileNotFoundError, match="pfl_docvqa_convert"):
        load(config(damaged).data, 0)
    shutil.copytree(converted, damaged, dirs_exist_ok=True)  # the traps beside the Arrow files
    load(config(damaged).data, 0)["train"].to_list()
    assert not trap.exists()


PICKLES = ("allow_pickle", "import pickle", "from pickle", "import dill", "torch.load(")


def test_training_cannot_reach_the_converter_or_a_pickle() -> None:
    entries = ("client_app", "server_app", "run", "runs/submission")
    reached = imported({Path(installed(f"fl_app/{entry}.py")) for entry in entries})
    names = {str(path.relative_to(installed("fl_app").parent)) for path in reached}
    assert {"fl_app/data/pfl_docvqa.py", "fl_app/codecs/nf4.py", "fl_app/server/coded.py"} <= names
    assert "fl_app/data/pfl_docvqa_convert.py" not in names
    for path in reached:
        assert not [word for word in PICKLES if word in path.read_text()], path
    converter = installed("fl_app/data/pfl_docvqa_convert.py")  # what the search would find
    assert [word for word in PICKLES if word in converter.read_text()]


def imported(files: set[Path]) -> set[Path]:
    """The project's files that ``files`` import, at any depth, and they themselves."""
    root = installed("fl_app").parent
    found: set[Path] = set()
    while files - found:
        path = (files - found).pop()
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Constant) and str(node.value).startswith("fl_app."):
                modules = [str(node.value).partition(":")[0]]  # imported when it is looked up
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for module in modules:
                folder = root / module.replace(".", "/")
                options = (folder.with_suffix(".py"), folder / "__init__.py")
                files |= {option for option in options if option.is_file()}
    return found


# ---- refusals ---------------------------------------------------------------------------------


def test_another_layout_is_refused(converted: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk

    splits = load_from_disk(str(converted)).remove_columns("client")
    splits.save_to_disk(str(tmp_path / "old"))
    (tmp_path / "old/pictures").mkdir()
    with pytest.raises(ValueError, match="convert it again"):
        load(config(tmp_path / "old").data, 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data=pfl_docvqa", "data.path=None should be the absolute path .*pfl_docvqa_convert"),
        ("data=pfl_docvqa data.path=.", "data.path='.' should be the absolute path"),
        ("data=pfl_docvqa data.path=PATH federation.clients=3", "set federation.clients=10"),
        ("data=pfl_docvqa data.path=PATH data.partitioner.column=provider", r"one of \['client'\]"),
        (
            "data.partitioner.id=natural",
            r"column=provider should be one of \[\] with data.id=docvq",
        ),
    ],
)
def test_preflight_says_what_the_data_want(converted: Path, words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(words.replace("PATH", str(converted))))


def test_preflight_lets_good_data_pass(converted: Path) -> None:
    check(config(converted))
    check(config(converted, "data.partitioner.id=by_column data.partitioner.column=provider"))
    check(config(converted, "data.partitioner.id=iid ~data.partitioner.column"))
