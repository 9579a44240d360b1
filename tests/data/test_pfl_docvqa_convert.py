"""The converter of PFL-DocVQA: damaged sources are refused, and nothing is left of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from fl_app.config import compose
from fl_app.data import load
from fl_app.data.pfl_docvqa_convert import SourceError, convert, main
from tests import pfl_docvqa as files
from tests.data.conftest import TRUST


def changed(**fields):
    """A source whose client 3 has, in record 2, other fields; None: without the field."""

    def damage(source: Path) -> None:
        path = source / "imdb_train_client_3.npy"
        records = list(np.load(path, allow_pickle=True)[1:])
        records[1] = {k: v for k, v in (records[1] | fields).items() if v is not None}
        files.write_records(path, records)

    return damage


def boxes(value: object):
    return changed(ocr_normalized_boxes=[[value, 0, 1, 1]] * 3)


def listed(client: str, **providers):
    def damage(source: Path) -> None:
        path = source / "data_points.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {client: providers}))

    return damage


RECORD = "imdb_train_client_3.npy, record 2: "
DAMAGES = {
    "question": (changed(question=None), RECORD + "no field 'question'"),
    "question type": (changed(question=3), RECORD + "question, image_name should hold strings"),
    "answers": (changed(answers=[]), RECORD + "no answers"),
    "one answer": (changed(answers="EUR 3"), RECORD + "answers should be a list, not str"),
    "tokens": (changed(ocr_tokens=["total", None, "3"]), RECORD + "ocr_tokens should hold strings"),
    "fewer tokens": (changed(ocr_tokens=["total"]), RECORD + "1 ocr_tokens, 3 ocr_normalized"),
    "nan": (boxes(np.nan), RECORD + "ocr_normalized_boxes should be finite"),
    "inf": (boxes(np.inf), RECORD + "ocr_normalized_boxes should be finite"),
    "pixels": (boxes(640), RECORD + "ocr_normalized_boxes should be in 0..1, but one is 640"),
    "text box": (boxes("left"), RECORD + "could not convert string"),
    "corners": (changed(ocr_normalized_boxes=[[0, 1]] * 3), RECORD + ".*should be \\[n, 4\\]"),
    "path": (changed(image_name="../../etc/page"), RECORD + "image_name .* a file's name"),
    "no header": (
        lambda s: files.write_records(s / "imdb_val.npy", [], header=files.record("val_0", 1)),
        "imdb_val.npy, record 0: should be the header",
    ),
    "not a header": (
        lambda s: files.write_records(s / "imdb_val.npy", [], header="PFL-DocVQA"),
        "imdb_val.npy, record 0: should be the header",
    ),
    "another array": (
        lambda s: np.save(s / "imdb_val.npy", np.zeros((2, 2))),
        "imdb_val.npy should hold a one-dimensional numpy array of records",
    ),
    "cut off": (
        lambda s: (s / "imdb_val.npy").write_bytes((s / "imdb_val.npy").read_bytes()[:-40]),
        "imdb_val.npy cannot be read as a numpy array of records",
    ),
    "no file": (
        lambda s: (s / "imdb_train_client_7.npy").unlink(),
        "imdb_train_client_7.npy is missing",
    ),
    "no list": (lambda s: (s / "data_points.json").unlink(), "data_points.json is missing"),
    "no json": (lambda s: (s / "data_points.json").write_text("{"), "data_points.json is not JSON"),
    "no clients": (
        lambda s: (s / "data_points.json").write_text("[]"),
        "data_points.json has no providers of client_0",
    ),
    "header listed": (listed("client_2", a=[0]), "provider 'a' lists 0; record 0 is the header"),
    "no questions": (
        lambda s: files.write_records(s / "imdb_val.npy", []),
        "imdb_val.npy holds no question on a page with a readable picture",
    ),
    "listed twice": (listed("client_2", a=[1, 2], b=[2]), "provider 'b' lists 2, as 'a' does"),
    "beyond": (listed("client_2", a=[4]), "lists record 4 of .*client_2.npy, whose last is 3"),
    "no index": (listed("client_2", a=["1"]), "provider 'a' should be a list of record indices"),
    "picture": (
        lambda s: (s / "images/doc3a_0.jpg").unlink(),
        "1 of 21 pictures are missing or cannot be read: doc3a_0.jpg. .*--drop-unreadable",
    ),
    "broken picture": (
        lambda s: (s / "val_0.jpg").write_bytes((s / "val_0.jpg").read_bytes()[:900]),
        "1 of 21 pictures are missing or cannot be read: val_0.jpg",
    ),
    "no pictures": (
        lambda s: [path.unlink() for path in s.rglob("*.jpg")],
        "no pictures",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_source_is_refused_and_leaves_nothing(damaged, tmp_path, name) -> None:
    damage, says = DAMAGES[name]
    damage(damaged)
    with pytest.raises(SourceError, match=says):
        convert(damaged, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_questions_without_a_readable_picture_can_be_left_out(damaged, tmp_path, capsys) -> None:
    (damaged / "images/doc3a_0.jpg").unlink()
    (damaged / "images/doc5b_1.jpg").write_bytes(b"no picture")
    options = [TRUST, "--drop-unreadable-pictures"]
    assert main([str(damaged), str(tmp_path / "out"), *options]) == 0
    train = load(compose(f"data=pfl_docvqa data.path={tmp_path / 'out'}").data, 0)["train"]
    assert len(train) == 30 - 2 - 1
    assert all(Path(picture).is_file() for picture in train["picture"])
    said = capsys.readouterr().out
    assert "2 of 21 pictures are missing or cannot be read: doc3a_0.jpg, doc5b_1.jpg" in said
    assert "imdb_train_client_3.npy: 1 of 3 questions" in said


def test_a_file_whose_pictures_are_all_broken_is_refused(damaged: Path, tmp_path: Path) -> None:
    (damaged / "val_0.jpg").unlink()
    with pytest.raises(SourceError, match="holds no question"):
        convert(damaged, tmp_path / "out", drop_unreadable=True)


def test_what_is_there_is_not_overwritten(source: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    assert main([str(source), str(tmp_path / "out"), TRUST]) == 1
    assert "exists" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
