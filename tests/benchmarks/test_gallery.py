"""The gallery: what is run, what is not run again, and the pages that are drawn from results."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import gallery, leaderboard_mini, runs
from fl_app.config import ConfigError
from fl_app.runs import result
from fl_app.runs.result import CONFIG_VERSION, ResultError
from tests.finished_runs import finished

LIST = """\
seeds: [0, 1, 2]
runs:
  sign: codec=sign
  fp16: codec=fp16
"""


class Flower:
    """Stands for `flwr run`: writes the folder of a finished run at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []
        self.fails: str | None = None

    def submit(self, overrides: str, environment: dict[str, str]) -> int:
        name = overrides.rpartition("output.name=")[2]
        if name == self.fails:
            return 1
        self.made.append(name)
        words, seed = overrides.split(" seed=")
        number = int(seed.split()[0])
        best = 0.8 + 0.01 * number + (0.03 if "sign" in words else 0)
        payload = 100 if "sign" in words else 2000
        scores = (0.3, 0.5, best)
        finished(self.folder / name, words, number, scores, payload, validated=scores)
        return 0


@pytest.fixture
def flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flower:
    @contextmanager
    def no_superlinks():
        yield ({},)

    made = Flower(tmp_path / "runs")
    made.folder.mkdir()
    monkeypatch.setattr(runs, "RUNS", made.folder)
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(runs, "submit", made.submit)
    monkeypatch.setattr(runs, "superlinks", no_superlinks)
    (tmp_path / "list.yaml").write_text(LIST)
    return made


def call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str, picture: bool = False
) -> None:
    command = ["gallery", "--list", str(tmp_path / "list.yaml"), *words]
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", command)
        if not picture:
            patch.setattr(gallery.picture, "draw", lambda found, file, references: file)
        gallery.main()


def test_what_has_a_result_is_not_run_again(flower: Flower, tmp_path, monkeypatch) -> None:
    """Also when the folders of the runs are gone, or the results were moved."""
    call(monkeypatch, tmp_path, "fp16")
    assert len(flower.made) == 3
    text = (tmp_path / "results/README.md").read_text()
    assert "## Missing" in text
    assert "- sign (`codec=sign`), seeds 0, 1, 2" in text
    shutil.rmtree(flower.folder)
    flower.folder.mkdir()
    call(monkeypatch, tmp_path)
    assert [name.rpartition("-")[0] for name in flower.made] == [
        f"bench-{label}-s{seed}" for label in ("fp16", "sign") for seed in (0, 1, 2)
    ]
    for path in sorted((tmp_path / "results").glob("*.json")):
        path.rename(path.with_name(f"other-{path.name}"))
    call(monkeypatch, tmp_path)
    assert len(flower.made) == 6


def test_pages_are_drawn_from_the_results_alone(flower: Flower, tmp_path, monkeypatch) -> None:
    call(monkeypatch, tmp_path, picture=True)
    results = tmp_path / "results"
    before = {name: (results / name).read_bytes() for name in ("README.md", "pareto.png")}
    shutil.rmtree(flower.folder)
    call(monkeypatch, tmp_path, "--redraw", picture=True)
    assert before == {name: (results / name).read_bytes() for name in before}
    text = before["README.md"].decode()
    for words in (
        "| `sign` | 3 | 0.8400 ± 0.0100 |",
        "| validation |",
        "missed by 1 of 3 seeds",
        "Final ANLS against `sign`",
    ):
        assert words in text
    for path in results.glob("*.json"):
        assert f"[{path.name}]({path.name})" in text
    assert "Missing" not in text


def test_a_run_that_completed_without_leaving_a_result_is_read(
    flower: Flower, tmp_path, monkeypatch
) -> None:
    """The command was stopped in between; a run that failed is made again in another folder."""
    names = {
        label: runs.name_of(label, words, 0)
        for label, words in (("sign", "codec=sign"), ("fp16", "codec=fp16"))
    }
    finished(flower.folder / f"bench-{names['sign']}", "codec=sign")
    finished(flower.folder / f"bench-{names['fp16']}", "codec=fp16", status="failed")
    runs.run_missing({"sign": "codec=sign", "fp16": "codec=fp16"}, [0])
    assert flower.made == [f"bench-{names['fp16']}-2"]
    assert {path.stem for path in (tmp_path / "results").glob("*.json")} == {*names.values()}


def test_a_failed_run_ends_the_command_and_keeps_what_is_there(
    flower: Flower, tmp_path, monkeypatch
) -> None:
    flower.fails = f"bench-{runs.name_of('sign', 'codec=sign', 1)}"
    with pytest.raises(SystemExit, match="call this again"):
        call(monkeypatch, tmp_path)
    assert len(list((tmp_path / "results").glob("*.json"))) == 1
    assert "- sign (`codec=sign`), seeds 1, 2" in (tmp_path / "results/README.md").read_text()


def test_results_of_an_earlier_configuration_are_kept_apart(
    flower: Flower, tmp_path, monkeypatch
) -> None:
    """What their overrides mean has changed: they are in no table, and their runs are missing."""
    call(monkeypatch, tmp_path, "sign")
    (path, *_) = sorted((tmp_path / "results").glob("*.json"))
    content = result.read(path).content
    content["config"]["digest"] = "0" * 64
    path.write_text(result.to_text(result.sealed(content)))
    call(monkeypatch, tmp_path, "--redraw")
    text = (tmp_path / "results/README.md").read_text()
    assert "1 of the files are results of configurations of an earlier version" in text
    assert "## Missing" in text
    assert f"[{path.name}]" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs: {a: codec=sign}", "should have seeds"),
        ("seeds: [0.5]\nruns: {a: codec=sign}", "whole numbers"),
        ("seeds: [0]\nruns: {a: codec=nope}", "nope"),
        ("seeds: [0]\nruns: {a: codec=sign, b: codec=sign seed=3}", "a and b are the same"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_runs(tmp_path, text, says) -> None:
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        gallery.asked(tmp_path / "list.yaml")


# ---- what is committed --------------------------------------------------------------------------


def test_the_committed_results_are_whole_and_mean_what_they_meant() -> None:
    """Every file parses, its sums are those of its rounds, and its overrides mean the same today.

    A result that conf/ has left behind has an earlier ``CONFIG_VERSION``: raise it when a change
    gives overrides another meaning. A new option whose value is as before goes into
    ``fl_app.runs.configurations.ADDED``.
    """
    for found in runs.stored().values():
        config = found.content["config"]
        assert found.is_current or config["version"] < CONFIG_VERSION, found.path
        assert found.content["status"] == "completed"
        assert f"-s{found.seed}-{found.digest[:8]}" in found.path.name


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    """And the list has what the leaderboard compares."""
    overrides, seeds = gallery.asked(gallery.LIST)
    results = runs.stored().values()
    found = gallery.current(results)
    text = gallery.page(found, len(results) - len(found), runs.missing(overrides, seeds))
    assert (runs.RESULTS / "README.md").read_text(encoding="utf-8") == text
    entries = ("nf4_single", "thin", "nf4_single codec=uniform_entropy", "fedavg_nf4")
    entries += ("fedavg_lora", "fedavg_full", "shampoo_full")
    assert {leaderboard_mini.ENTRIES[name].overrides for name in entries} <= {*overrides.values()}
    assert seeds == [0, 1, 2]


def test_two_results_of_one_run_are_refused(flower: Flower, tmp_path) -> None:
    runs.run_missing({"sign": "codec=sign"}, [0])
    (path,) = (tmp_path / "results").glob("*.json")
    shutil.copy(path, path.with_name("copy.json"))
    with pytest.raises(ValueError, match="results of the same run: remove one"):
        runs.stored()
    (tmp_path / "results/copy.json").write_text("{}")
    with pytest.raises(ResultError, match=r"copy\.json is not the result"):
        runs.stored()
