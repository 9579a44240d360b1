"""The command's own parts: which subcommand, what is printed, which status."""

from importlib.metadata import version
from pathlib import Path

import pytest

import fl_app
from fl_app.command.check import data_lines
from fl_app.command.main import COMMANDS, main
from fl_app.command.overrides import CONF
from fl_app.config import CONF_DIR, identity
from fl_app.config.own import with_own
from fl_app.files import RESULTS
from fl_app.preflight.survey import Survey
from fl_app.runs.text import size
from fl_app.simulation.in_process import run_experiment
from tests.finished_runs import finished
from tests.small import RUN


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path) -> None:
    """Let the command set its variable for each test alone."""
    monkeypatch.setenv(RESULTS, str(tmp_path))


def test_a_wrong_command_suggests_the_right_one(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chekc", "rounds=1"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "'check'" in said
    assert all(name in said for name in COMMANDS)


def test_without_a_command_there_is_help_and_an_error_status(capsys) -> None:
    assert main([]) == 2
    assert "thinwire run" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"thinwire {version('thinwire')}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--rounds", "3"], "write rounds=3"),
        (["check", "--optimizer.lr=1e-3"], "write optimizer.lr=1e-3"),
        (["sweep", "--clients-per-round", "2"], "write clients_per_round=2"),
        (["check", "codec=thin", "--seed"], "write seed=VALUE"),
    ],
)
def test_an_option_with_dashes_is_told_how_to_be_written(words: list[str], says, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_help_lists_what_there_is_to_choose(capsys) -> None:
    assert CONF == CONF_DIR
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out.split()
    assert {p.stem for p in CONF_DIR.glob("*/*.yaml") if p.parent.name != "sweep"} <= {*said}


def test_check_says_what_the_run_then_costs(tmp_path: Path, capsys) -> None:
    """Bytes are those of a round that brings the model; nothing stays on the disk."""
    words = [*RUN.split(), "experiment=fedavg_lora", "rounds=2", f"output.dir={tmp_path}/to/x"]
    blanks = "codec.up={id: chain, links: [{id: delta}, {id: fp32}]}"
    assert main(["check", *words, "output.name=x", blanks]) == 0
    said = capsys.readouterr().out
    for part in ("fedavg_lora, seed 0", "2, 2 of 3 clients", "FedAvg", "fp32 up", "x/x", "test   "):
        assert part in said
    assert "client 2    4 rows, inputs of " in said
    assert not list(tmp_path.iterdir())

    run = run_experiment([*words, f"output.dir={tmp_path}", blanks])
    second = [row for row in run.ledger.rows if row.round == 2]
    down, up = (
        size(sum(row.message_bytes for row in second if row.direction == way))
        for way in ("down", "up")
    )
    assert f"{down} down and {up} up a round" in said
    assert f"about {size(run.ledger.sent())} in 2 rounds" in said  # the first brings no theta0


def test_check_finds_what_is_wrong_with_the_rows_of_a_client(tmp_path: Path, capsys) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"q": "{i}", "a": "yes"}}\n' for i in range(8)) + '{"q": "9"}\n')
    words = [
        *("model=llama-tiny", "task=causal_lm", "data=table", "federation.clients=2"),
        *("task.prompt='{q}'", "task.response='{a}'", "task.reference=a"),
        *(f"data.train.path={path}", f"data.test.path={path}", f"output.dir={tmp_path}"),
    ]
    assert main(["check", *words]) == 2
    said = capsys.readouterr().err
    assert "1 of 9 rows have no value in the column 'a': 9 (counted from 1)" in said
    assert len(said.splitlines()) == 1


def test_check_names_the_clients_that_a_column_names() -> None:
    (said,) = data_lines({0: Survey(4, [7], {}, owner="east\x1b")}, {})
    assert said.startswith("client 0 ")
    assert r" east\x1b: 4 rows" in said


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimizer.schedule=cosin", "Did you mean 'cosine'?"),
        ("loacl_epochs=3", "Did you mean 'local_epochs'?"),
        ("lr=3", "Did you mean 'optimizer.lr'?"),
        ("codec=thinn", "Did you mean 'thin'?"),
        ("+model.config.colour=1", "model.config keys: colour"),  # which transformers knows
        ("clients_per_round=2", "strategy=single_client"),  # which the strategy says
        ("rounds=1,2", "use `thinwire sweep rounds=1,2`"),
    ],
)
def test_check_refuses_what_run_would_refuse(word: str, says: str, capsys) -> None:
    assert main(["check", word]) == 2
    assert says in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").mkdir()
    assert main(["check", f"output.dir={tmp_path}", "output.name=taken"]) == 2
    assert "choose another output.name" in capsys.readouterr().err


def test_report_makes_a_page(tmp_path: Path, capsys) -> None:
    folder = finished(tmp_path / "one")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")


def test_an_interruption_is_one_line_and_130(monkeypatch, capsys) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl_app.command.check.main", interrupted)
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_init_writes_an_experiment_that_is_the_same_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [f"a cough {n},{'ab'[n % 2]},{'ens'[n % 3]}" for n in range(12)]
    (tmp_path / "rows.csv").write_text("\n".join(["note,label,ward", *lines]))
    typed = ["model=org/name", "task=sequence_classification", "data=rows.csv", "data.client=ward"]
    split = [*typed[:2], "--conf", "new folder", *typed[2:]]
    assert main(["init", *split]) == 0  # the folder is made
    assert "experiment=mine" in capsys.readouterr().out
    words = with_own(["experiment=mine"], Path("new folder"))
    assert identity(fl_app.compose(words)) == identity(fl_app.compose(typed))
    text = Path("new folder/experiment/mine.yaml").read_text()
    assert text.splitlines()[1] == f"# thinwire init {' '.join(typed)}"
    for name in ("mine", "thin", "../x"):  # taken, the project's, and no name
        assert main(["init", *typed, "--conf", "new folder", "--name", name]) == 2
