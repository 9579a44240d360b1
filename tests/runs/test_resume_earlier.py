"""Runs that an earlier version wrote: they end as there, or are refused with both versions named.

What is resumed here was made by commit 4bf379d; stopped/README.md says how.
"""

import csv
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from fl_app.build import forget_session, open_session
from fl_app.config import compose, read_yaml
from fl_app.runs import checkpoint, folder
from fl_app.runs.folder import RunFolder
from fl_app.runs.resume import ResumeError, with_stored_overrides
from fl_app.server_app import Experiment
from fl_app.session import Session
from fl_app.tree import digest
from tests.loopback import Loopback
from tests.runs.test_resume import begun

STOPPED = Path(__file__).parent / "stopped"
NAMES = sorted(path.name for path in STOPPED.iterdir() if path.is_dir())
WORDS = "task=word_problems model=llama-tiny"
STOPPED_AFTER = 2  # rounds
ADAPTER = "adapter_model.safetensors"
# Of the clients, where these runs were made: another processor or torch computes other last bits.
THETA0 = "2f53c864b10d30ca"
GRADIENTS = "46ce11e388bcb0bbf48db7b20f9d5b0c38a6d749776e8d2f7644841e406f4203"


@pytest.fixture(params=NAMES)
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of one of the folders."""
    return shutil.copytree(STOPPED / request.param, tmp_path / request.param)


def rows(path: Path) -> list[dict[str, str]]:
    """Return a ledger without seconds, and without the set-up, which a new start repeats.

    Columns that earlier versions did not have are left out too, and of the rounds after the stop
    what the same payload weighs in today's frames and messages.
    """
    weights = ("frame_bytes", "message_bytes")
    with (path / "ledger.csv").open(newline="") as file:
        return [
            {
                name: value
                for name, value in row.items()
                if not name.endswith("_s") and name not in ("outcome", "reason", "received_bytes")
                if int(row["round"]) <= STOPPED_AFTER or name not in weights
            }
            for row in csv.DictReader(file)
            if row["kind"] != "setup"
        ]


def gradients(here: Session) -> str:
    """Return the digest of every client's gradient at theta0: of what this machine computes."""
    here.adapter.set(here.model, here.theta0)
    trained = {name: p for name, p in here.model.named_parameters() if p.requires_grad}
    found = {}
    for client in range(here.cfg.federation.clients):
        here.model.zero_grad()
        here.model(**here.task.training([*here.documents(client)])).loss.backward()
        found |= {f"{client}.{name}": p.grad.numpy().copy() for name, p in trained.items()}
    here.model.zero_grad()
    return digest(found)


def test_a_run_that_an_earlier_version_wrote_ends_as_it_would_have_there(stopped: Path) -> None:
    run, expected = stopped / "run", stopped / "expected"
    scores = (run / "metrics.csv").read_text()
    words = with_stored_overrides(f"resume={run}")
    forget_session()
    here = open_session(words)
    if here.manifest.hex() != THETA0:
        pytest.skip("this processor draws another theta0: here it would be another run")
    same_bits = gradients(here) == GRADIENTS
    grid = Loopback(words, here.cfg.federation.clients)
    grid.run.run_id = 2
    for context in grid.contexts.values():
        context.run_id = 2
        context.node_config["state-dir"] = str(stopped / "nodes")
    Experiment(here, grid, words, setup_seconds=0.0).start()
    forget_session()

    assert rows(run) == rows(expected)
    assert (run / "metrics.csv").read_text().startswith(scores)
    if not same_bits:
        pytest.skip("the ledger is the same; this processor computes other last bits in training")
    assert (run / "metrics.csv").read_text() == (expected / "metrics.csv").read_text()
    assert digest(load_file(run / "adapter" / ADAPTER)) == digest(load_file(expected / ADAPTER))


@pytest.mark.parametrize(
    ("words", "off"),
    [
        ("", "data.validation_documents=0"),
        (f"{WORDS} data=word_problems", "data.validation_problems=0"),
        (f"{WORDS} data=snli", "data.validation.path=null"),
    ],
)
def test_a_run_from_before_the_validation_split_goes_on_without(
    tmp_path: Path, words: str, off: str
) -> None:
    overrides = f"{words} output.dir={tmp_path} output.name=run"
    begun = RunFolder(compose(overrides), overrides)
    begun.keep(0, {}, {"strategy": {}})
    begun._lock.close()
    config = read_yaml(begun.path / "config.yaml")
    config["data"] = {k: v for k, v in config["data"].items() if not k.startswith("validation")}
    (begun.path / "config.yaml").write_text(yaml.safe_dump(config))
    resumed = with_stored_overrides(f"resume={begun.path}")
    assert off in resumed.split()
    if "snli" in words:
        asked = compose(f"{resumed} data.validation.share=0.1")
        with pytest.raises(ResumeError, match=r"data\.validation\.share=0\.1, where it has None"):
            RunFolder(asked)
    assert RunFolder(compose(resumed)).path == begun.path


def test_a_run_goes_on_with_the_step_size_that_was_the_default_when_it_began(
    tmp_path: Path,
) -> None:
    """Where the default is another one since, and only there."""
    model = "model=huggingface model.path=/mine task=causal_lm data=table data.train.path=/x.csv"
    overrides = f"{model} output.dir={tmp_path} output.name=run"
    begun = RunFolder(compose(overrides), overrides)
    begun.keep(0, {}, {"strategy": {}})
    begun._lock.close()
    resume = f"resume={begun.path}"
    assert compose(with_stored_overrides(resume)).optimizer.lr == 2e-4
    config = begun.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.0002", "lr: 0.007"))
    words = with_stored_overrides(resume)
    assert compose(words).optimizer.lr == 0.007
    with pytest.raises(ResumeError, match=r"optimizer\.lr=0\.001, where it has 0\.007"):
        RunFolder(compose(with_stored_overrides(f"{resume} optimizer.lr=1e-3")))
    assert RunFolder(compose(words)).path == begun.path


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "refused"),
    [("adapter=full", True), ("adapter.modules_to_save=[lm_head]", True), ("", False)],
)
def test_a_run_that_trained_whole_modules_in_bfloat16_is_refused(
    tmp_path: Path, words: str, refused: bool
) -> None:
    overrides = f"{WORDS} data=word_problems model.dtype=bfloat16 {words} output.dir={tmp_path}"
    run = RunFolder(compose(overrides), overrides)
    run.keep(0, {}, {"strategy": {}})
    run._lock.close()
    config = read_yaml(run.path / "config.yaml")
    del config["model"]["head"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    if refused:
        assert "trained whole modules of this run in bfloat16" in refusal(run.path)
    else:
        RunFolder(compose(with_stored_overrides(f"resume={run.path}")))


def refusal(run: Path) -> str:
    """Return what resuming is refused with; check that nothing in the folder has changed."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ResumeError) as error:
        RunFolder(compose(with_stored_overrides(f"resume={run}")))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return str(error.value)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch) -> None:
    run = shutil.copytree(STOPPED / "memories" / "run", tmp_path / "run")
    monkeypatch.setattr(checkpoint, "VERSION", "2")
    assert "of version 1, and this Thinwire reads version 2" in refusal(run)


@pytest.mark.parametrize("author", [None, "0.0.7"])
def test_a_run_whose_overrides_mean_something_else_today_is_refused(
    tmp_path: Path, monkeypatch, author: str | None
) -> None:
    if author is None:  # its checkpoint does not say who wrote it
        run = shutil.copytree(STOPPED / "relayed" / "run", tmp_path / "run")
    else:
        monkeypatch.setattr(folder, "installed_version", lambda _: author)
        run = begun(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  lr: ", "  momentum: 0.5\n  lr: 1"))
    said = refusal(run)
    assert f"Thinwire {author or '0.1.0'} wrote this run, this is {version('thinwire')}" in said
    assert "optimizer.lr=0.007, where it has 10.007" in said
    assert "optimizer.momentum=None, where it has 0.5" in said
