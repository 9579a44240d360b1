"""What can be resumed and what cannot; the runs themselves are in test_resume_killed.py."""

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset
from omegaconf import OmegaConf

from fl_app import run
from fl_app.config import ConfigError, compose
from fl_app.preflight import configured
from fl_app.runs.folder import RunFolder
from fl_app.runs.resume import ResumeError, with_stored_overrides
from tests import small


def begun(tmp_path: Path, rounds: int = 1, status: str | None = None, words: str = "") -> Path:
    """Return the folder of a run of four rounds that has done ``rounds``."""
    overrides = f"{small.DATA} rounds=4 {words} output.dir={tmp_path} output.name=run"
    folder = RunFolder(compose(overrides), overrides)
    for number in range(rounds + 1):
        folder.add_metrics(number, "test", {"anls": 0.1 * number})
        folder.keep(number, {}, {"strategy": {}})
    folder.add_metrics(rounds + 1, "test", {"anls": 0.9})  # of a round that was cut off
    if status:
        (folder.path / "summary.json").write_text(json.dumps({"status": status}, indent=2))
    folder._lock.close()
    return folder.path


def again(path: Path, words: str = "") -> RunFolder:
    return RunFolder(compose(f"{small.DATA} rounds=4 resume={path} {words}"))


def test_a_run_goes_on_after_its_last_whole_round(tmp_path: Path) -> None:
    path = begun(tmp_path, rounds=2)
    folder = again(path)
    assert folder.path == path
    assert [r for r, *_ in folder.metrics] == [0, 1, 2]
    assert len((path / "metrics.csv").read_text().splitlines()) == 4
    assert folder.resumed == [2]
    folder.keep(3, {}, {})
    folder._lock.close()
    assert again(path).resumed == [2, 3]


def test_its_files_say_what_they_said(tmp_path: Path) -> None:
    path = begun(tmp_path)
    before = (path / "config.yaml").read_text(), (path / "overrides.txt").read_text()
    again(path)
    assert ((path / "config.yaml").read_text(), (path / "overrides.txt").read_text()) == before


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    overrides = f"{small.DATA} rounds=4 output.dir={tmp_path} output.name=run"
    folder = RunFolder(compose(overrides), overrides)
    folder.add_metrics(0, "test", {"anls": 0.1})
    folder._lock.close()
    found = again(folder.path)
    assert (found.checkpoint, found.metrics, found.resumed) == (None, [], [])


def test_more_rounds_and_more_patience_are_the_same_run(tmp_path: Path) -> None:
    path = begun(tmp_path, rounds=4, status="completed")
    with pytest.raises(ResumeError, match="it has done 4 of rounds=4: nothing is left"):
        again(path)
    assert again(path, "rounds=6 federation.reply_timeout=60 logger=none").resumed == [4]


def test_the_order_of_free_keys_makes_no_other_run(tmp_path: Path) -> None:
    path = begun(tmp_path, words="adapter=peft adapter.args={a:1,b:2}")
    again(path, "adapter=peft adapter.args={b:2,a:1}")._lock.close()
    with pytest.raises(ResumeError, match=r"adapter\.args"):
        again(path, "adapter=peft adapter.args={b:1,a:2}")


def test_a_complete_run_is_refused_before_anything_starts(tmp_path: Path, capsys) -> None:
    path = begun(tmp_path, rounds=4)
    for said in ({"status": "completed", "rounds": 4}, {"status": "completed", "rounds": 9}):
        (path / "summary.json").write_text(json.dumps(said))
        with pytest.raises(ResumeError, match="nothing is left; set more rounds"):
            configured(f"resume={path}")
    for said in ({"status": "failed", "rounds": 4}, {"status": "completed"}, []):
        (path / "summary.json").write_text(json.dumps(said))
        configured(f"resume={path}")


def test_where_results_cannot_go_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "file").touch()
    for words in ("output.name=x", "", "output.dir={}/file/below"):
        with pytest.raises(ConfigError, match=r"file is a file; choose another output\.dir"):
            configured(f"output.dir={tmp_path}/file {words}".format(tmp_path))
    path = begun(tmp_path)
    configured(f"resume={path}")
    configured(f"output.dir={tmp_path}/new/deep output.name=x")
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != path)
    with pytest.raises(ConfigError, match="run cannot be written"):
        configured(f"resume={path}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.5, where it has 0.007"),
        ("seed=3", "seed=3, where it has 0"),
        ("codec=sign", "codec.up"),
        ("federation.max_update_rms=2", "federation.max_update_rms=2, where it has 1.0"),
    ],
)
def test_another_configuration_is_refused_by_name(tmp_path: Path, words: str, says: str) -> None:
    path = begun(tmp_path)
    files = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with pytest.raises(ResumeError, match=says):
        again(path, words)
    assert files == {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_a_run_that_still_works_is_left_alone(tmp_path: Path) -> None:
    path = begun(tmp_path)
    first = again(path)
    with pytest.raises(ResumeError, match="another process still works on this run"):
        again(path)
    first._lock.close()


@pytest.mark.parametrize(
    ("resumed", "says"),
    [("runs/missing", "is not the folder of a run"), ("conf", "is not the folder of a run")],
)
def test_the_command_refuses_what_is_no_run(capsys, resumed: str, says: str) -> None:
    assert run.main([f"resume={resumed}"]) == 2
    assert says in capsys.readouterr().err


def test_resume_alone_takes_the_overrides_of_the_run(tmp_path: Path) -> None:
    path = begun(tmp_path, words="optimizer.lr=0.25")
    words = with_stored_overrides(f"resume={path}")
    assert compose(words).optimizer.lr == 0.25
    assert RunFolder(compose(words)).resumed == [1]


TABLE = "data=table task=gsm8k model=llama-tiny federation.clients=2 rounds=4"


def _of_an_earlier_version(tmp_path: Path, content: str, name: str = "rows.csv") -> Path:
    """Return the folder of a run of a table, begun before ``data.formats`` came."""
    table = tmp_path / name
    table.write_text(content)
    overrides = (
        f"{TABLE} 'data.train.path=\"{table}\"' 'data.test.path=\"{table}\"' "
        f"output.dir={tmp_path} output.name=run"
    )
    folder = RunFolder(compose(overrides), overrides)
    folder.add_metrics(0, "test", {"accuracy": 0.1})
    folder.keep(0, {}, {"strategy": {}})
    folder._lock.close()
    config = folder.path / "config.yaml"
    kept = OmegaConf.load(config)
    for key in ("formats", "empty"):
        del kept.data[key]
    config.write_text(OmegaConf.to_yaml(kept))
    return folder.path


@pytest.mark.parametrize(
    "content",
    [
        "instruction,output,unused\nwhat?,a,007\nNAs,b,NA\n",
        "instruction,output\n7,8\n12,-1\n",  # numbers that are written as Python does
    ],
)
def test_a_table_that_reads_as_before_goes_on(tmp_path: Path, content: str) -> None:
    path = _of_an_earlier_version(tmp_path, content)
    assert RunFolder(compose(with_stored_overrides(f"resume={path}"))).resumed == [0]


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("instruction,output\na,8\na,007\n", "rows.csv", "row 2 of data.train .* 'output'"),
        ("instruction,output\na,8\nNA,7\n", "rows.csv", "row 2 of data.train .* 'instruction'"),
        ("instruction,output\na,5\nb,\n", "rows.csv", "row 1 of data.train .* 'output'"),
        ('{"instruction": "a", "output": "2021-03-01"}', "rows.json", "row 1 of .* 'output'"),
        ("instruction,output\na,b\n", "rows[1].csv", "was a pattern"),
    ],
)
def test_a_table_that_reads_otherwise_now_is_refused(
    tmp_path: Path, content: str, name: str, says: str
) -> None:
    path = _of_an_earlier_version(tmp_path, content, name)
    with pytest.raises(ResumeError, match=f"read as they are written, and .*{says}"):
        RunFolder(compose(with_stored_overrides(f"resume={path}")))


@pytest.mark.parametrize("prompt", ["Do it.\n\n### Instruction:\n{instruction}\n", 'a "b" {c}: #'])
def test_a_run_goes_on_with_the_prompt_that_conf_had(tmp_path: Path, prompt: str) -> None:
    table = tmp_path / "rows.parquet"
    Dataset.from_list([{"instruction": "a", "output": "b", "c": "d"}]).to_parquet(table)
    overrides = (
        f"data=table task=causal_lm model=llama-tiny data.train.path={table} "
        f"data.test.path={table} output.dir={tmp_path} output.name=run"
    )
    folder = RunFolder(compose(overrides), overrides)
    folder.keep(0, {}, {"strategy": {}})
    folder._lock.close()
    config = folder.path / "config.yaml"
    kept = OmegaConf.load(config)
    kept.task.prompt = prompt
    config.write_text(OmegaConf.to_yaml(kept))
    resumed = compose(with_stored_overrides(f"resume={folder.path}"))
    assert resumed.task.prompt == prompt
    assert RunFolder(resumed).resumed == [0]
