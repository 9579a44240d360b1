"""The public face: its names, its examples, and what is imported before it is needed."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import fl_app
from fl_app.files import RESULTS

ROOT = Path(__file__).parents[1]

# One process: what is imported stays, so each step proves all before it too.
LIGHT = """
import contextlib, io, sys

def loaded(*names):
    return [name for name in names if name in sys.modules]

import fl_app
assert set(fl_app.__all__) <= set(dir(fl_app))
assert not hasattr(fl_app, "compres")
from fl_app.command.main import main
helps = "--help", "run --help", "check -h", "sweep --help", "report --help", "init --help"
for words in map(str.split, helps):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        main(words)
    assert "examples:" in said.getvalue(), words
assert not loaded("torch", "flwr", "hydra", "omegaconf", "numpy"), loaded("hydra", "numpy")

from fl_app.sweep import job
from fl_app.report import page
for command, wrong in (
    ("run", ["optimzer.lr=3"]), ("run", ["strategy=fedvag"]), ("run", ["optimizer.lr=-1"]),
    ("run", ["adapter=lora_sb", "adapter.init=server"]), ("run", ["target.metric=bleu"]),
    ("run", ["model.path=embedded:vt6"]), ("run", ["data.partitioner.id=iiid"]),
    ("run", ["codec.up={id:nf5}"]), ("run", ["privacy=dp_sgd", "privacy.noise=none"]),
    ("run", ["strategy.sampler=best"]), ("run", ["federation.torch_threads=1000"]),
    ("run", ["model=bert-base-cased"]), ("run", ["resume=runs/none"]),
    ("run", ["adapter=peft", "adapter.method=VERA", "adapter.args.rr=1"]),
    ("check", ["codec.reference=last"]), ("sweep", ["codec=nf4,thin", "optimizer.lrr=1"]),
    ("sweep", ["seed=0,1", "job='rounds=0','rounds=1'"]),
):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([command, *wrong]) == 2, wrong
    assert said.getvalue().startswith("configuration: "), (wrong, said.getvalue())
heavy = ("torch", "flwr", "transformers", "peft", "datasets", "ray", "pandas")
assert not loaded(*heavy), loaded(*heavy)
"""


def test_nothing_heavy_is_imported_for_help_or_to_refuse_a_wrong_word(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, check=True, timeout=120)


def test_a_name_of_the_face_is_the_name_of_no_module() -> None:
    modules = {path.stem for path in (ROOT / "fl_app").rglob("*.py")}
    modules |= {path.name for path in (ROOT / "fl_app").rglob("*") if path.is_dir()}
    assert not {*fl_app.__all__} & modules


def test_every_name_has_an_example_that_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RESULTS, str(tmp_path))
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    first = ["run_experiment"]  # whose results the others read
    for name in sorted(fl_app.__all__, key=lambda name: name not in first):
        thing = getattr(fl_app, name)
        assert thing is getattr(import_module(thing.__module__), name)
        (example,) = finder.find(thing, name, globs={})
        assert example.examples, f"{name} has no example"
        said: list[str] = []
        runner.run(example, out=said.append)
        assert not runner.failures, "".join(said)
    assert {path.name for path in (tmp_path / "runs/example").iterdir()} == {
        "config.yaml", "ledger.csv", "metrics.csv", "summary.json", "adapter", "checkpoints",
        "report.html", "tensorboard", "overrides.txt", "answers.json",
    }  # fmt: skip
