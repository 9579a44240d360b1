"""The model of the best round: kept beside the last one, and the same after an interruption."""

import json
from pathlib import Path

import pytest

import fl_app
from fl_app.files import RESULTS, replaced_folder
from fl_app.runs import console, exported
from fl_app.runs.read import read
from fl_app.runs.submission import main as submit
from fl_app.server_app import Experiment
from fl_app.tree import Tree
from tests import small
from tests.finished_runs import finished

WORDS = (
    f"{small.RUN} {small.VT5} logger=none clients_per_round=2 model.max_answer_length=4 rounds=3 "
    "data.validation_documents=2"
)
SCORES = (0.1, 0.9, 0.3, 0.5)  # by round: the first is the best, and the last clearly worse
METHODS = {"memory": "strategy=fedavg codec=top_k", "patches": "strategy=flora codec=fp32"}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch) -> Path:
    """Return the folder of results; scores are those of `SCORES`."""

    def evaluate(run: Experiment, split: str, number: int, tree: Tree) -> dict[str, float]:
        scores = dict.fromkeys(("anls", "accuracy"), SCORES[number])
        run.folder.add_metrics(number, split, scores)
        count = run.session.task.examples(run.session.data[split])
        run.session.predictions = [""] * count  # clients are scored by them
        return scores

    monkeypatch.setenv(RESULTS, str(tmp_path))
    monkeypatch.setattr(Experiment, "evaluate", evaluate)
    return tmp_path / "runs"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_card(folder: Path) -> dict[str, bytes]:
    """Return what does not tell of later rounds."""
    return {name: data for name, data in files(folder).items() if name != exported.CARD}


@pytest.mark.parametrize("method", METHODS)
def test_the_best_round_is_kept_through_an_interruption(
    results: Path, monkeypatch, capsys, method: str
) -> None:
    words = f"{WORDS} {METHODS[method]}"
    until = fl_app.run_experiment(f"{words} rounds=1 output.name=until")
    assert "warning" not in capsys.readouterr().out
    whole = fl_app.run_experiment(f"{words} output.name=whole")
    kept = without_card(whole.path / exported.BEST)
    assert kept == without_card(until.path / exported.LAST)
    assert kept == without_card(until.path / exported.BEST)
    assert kept != without_card(whole.path / exported.LAST)
    best = whole.summary["best"]
    assert (best["round"], best["adapter"], best["last_is_worse"]) == (1, exported.BEST, True)
    assert whole.best_adapter == whole.path / exported.BEST
    said = capsys.readouterr().out
    assert "1: ANLS 0.9000 on validation, which selected it; ANLS 0.9000 on test; its model" in said
    assert "the last round is clearly worse than round 1: ANLS 0.5000 after 0.9000" in said
    assert exported.BEST in (whole.path / "report.html").read_text()

    write = exported.write

    def stop(run: Path, name: str, *rest) -> None:
        """Stop between the checkpoint of round 1 and its export, and leave what a kill leaves."""
        kept = sorted((run / "checkpoints").glob("round-*"))
        if name == exported.BEST and kept[-1].stem == "round-0001":
            (run / ".adapter-best.partial-x/old").mkdir(parents=True)
            raise KeyboardInterrupt
        write(run, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(exported, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            fl_app.run_experiment(f"{words} output.name=part")
    assert without_card(results / "part" / exported.BEST) != kept  # that of round 0
    fl_app.run_experiment("resume=runs/part")
    for name in (exported.BEST, exported.LAST):
        assert files(results / "part" / name) == files(whole.path / name)
    assert not [*(results / "part").glob(".*")]


def test_without_validation_rows_there_is_none_and_a_warning_says_so(results: Path, capsys) -> None:
    words = f"{WORDS} strategy=fedavg data.validation_documents=0 output.name=x"
    run = fl_app.run_experiment(words)
    assert run.best_adapter is None
    assert run.summary["best"]["adapter"] is None
    said = capsys.readouterr().out
    assert "no validation rows selected a round" in said
    assert submit([str(run.path), "--out", str(results / "out"), "--best"]) == 1
    assert "keeps no best model" in capsys.readouterr().err


def test_a_little_worse_is_not_clearly_worse(tmp_path: Path) -> None:
    for last, worse in ((0.74, True), (0.76, False), (0.8, False)):
        path = finished(tmp_path / f"{last}", scores=(0.3, 0.8, 0.1), validated=(0.3, 0.8, last))
        assert read(path).last_is_worse == worse
        assert json.loads((path / "summary.json").read_text())["best"]["last_is_worse"] == worse


def test_rounds_that_no_score_tells_apart_are_said(tmp_path: Path, capsys) -> None:
    for best in (0.0, 0.1):
        path = finished(tmp_path / f"{best}", scores=(0.0, 0.0, best), validated=(0.0, 0.0, best))
        console.final(json.loads((path / "summary.json").read_text()), path)
        said = capsys.readouterr().out
        assert ("ANLS is 0.0000 on validation in every round" in said) == (best == 0)
        assert ("task.metric may be another" in said) == (best == 0)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "kept") as folder:
            (folder / "file").write_text(text)
        assert files(tmp_path / "kept") == {"file": text.encode()}

    def fails() -> None:
        with replaced_folder(tmp_path / "kept") as folder:
            (folder / "file").write_text("three")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert files(tmp_path / "kept") == {"file": b"two"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
