"""Finding finished runs, reading them, and their table."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fl_app import runs
from fl_app.config import compose, plain
from fl_app.runs.configurations import compact, differing, group
from fl_app.runs.folder import RunFolder
from fl_app.runs.place import without_places
from fl_app.runs.read import MOST, UNFINISHED, Run, read
from fl_app.wire.ledger import Transfer
from tests.finished_runs import finished, sweep

names = st.text("ab[]*-=, ", min_size=1, max_size=6).filter(lambda s: s.strip(" "))
paths = st.sets(st.lists(names, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


def stub(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "ledger.csv", "metrics.csv"):
        (folder / name).touch()
    return folder


@given(paths, st.data())
def test_a_folder_stands_for_all_runs_below_it(tmp_path_factory, relative, data) -> None:
    root = tmp_path_factory.mktemp("sweep")
    made = {stub(root.joinpath(*parts)) for parts in relative}
    outer = {p for p in made if not any(q in p.parents for q in made)}  # nothing in a run is a run
    found = runs.find_runs([root])
    assert set(found) == outer
    assert len(found) == len(outer)
    some = data.draw(st.permutations(sorted(outer)))
    assert runs.find_runs([*some, root, *some]) == [*some, *(p for p in found if p not in some)]


def test_a_pattern_and_the_shells_expansion_of_it_are_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bench-b", "bench-a", "other"):
        stub(tmp_path / "runs" / name)
    (tmp_path / "runs" / "bench-tables").mkdir()
    (tmp_path / "runs" / "bench.csv").touch()
    quoted = runs.find_runs(["runs/bench*"])
    expanded = runs.find_runs(sorted(str(p) for p in Path("runs").glob("bench*")))
    assert quoted == expanded == [Path("runs/bench-a"), Path("runs/bench-b")]


@pytest.mark.parametrize("pattern", ["nothing-*", "missing/folder"])
def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path, pattern: str) -> None:
    stub(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        runs.find_runs([tmp_path / "run", tmp_path / pattern])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.yaml"):
        runs.find_runs([tmp_path / "empty"])


sizes = st.integers(0, 10**7)
rows = st.lists(
    st.builds(
        Transfer,
        round=st.integers(0, 4),
        partition=st.integers(0, 3),
        direction=st.sampled_from(["up", "down"]),
        kind=st.sampled_from(["train", "evaluate", "setup"]),
        scalars=sizes,
        payload_bytes=sizes,
        frame_bytes=sizes,
        message_bytes=sizes,
    ),
    max_size=12,
)
scores = st.lists(st.integers(0, 10**6).map(lambda n: n / 10**6), min_size=1, max_size=5)


@given(rows, scores)
def test_the_table_says_what_the_summary_of_the_run_said(tmp_path_factory, transfers, by_round):
    folder = tmp_path_factory.mktemp("runs") / "one"
    cfg = compose("output.name=one target.value=0.5").copy()
    OmegaConf.set_readonly(cfg, False)
    cfg.output.dir = str(folder.parent)
    run = RunFolder(cfg)
    for number, score in enumerate(by_round):
        run.add_metrics(number, "test", {"anls": score, "accuracy": score / 2})
    run.add_metrics(len(by_round), "unseen", {"anls": 0.25})
    run.ledger.add(transfers)
    totals = (
        dict.fromkeys(("theta0_digest", "privacy", "device"))
        | {"absent": {}}
        | dict.fromkeys(
            ("rounds", "trainable_scalars", "seed_only_saving", "train_seconds", "setup_seconds"), 1
        )
    )
    said = run.finish("completed", "target.value=0.5", totals)
    (row,) = runs.runs_table([folder]).to_dict("records")
    for column, value in {
        "status": "completed",
        "test_anls": said["final"]["anls"],
        "test_accuracy": pytest.approx(said["final"]["accuracy"], abs=1e-6),
        "unseen_anls": 0.25,
        "bytes_total": said["bytes"]["total"],
        "bytes_setup": said["bytes"]["setup"],
        "bytes_up": said["bytes"]["message_up"],
        "bytes_down": said["bytes"]["message_down"],
        "payload_up": said["bytes"]["payload_up"],
        "payload_down": said["bytes"]["payload_down"],
        "bits_per_scalar_up": said["bits_per_scalar_up"],
        "rounds_to_target": said["target"]["round"],
        "bytes_to_target": said["target"]["bytes"],
        "seconds": said["seconds"]["total"],
    }.items():
        assert row[column] == value, column


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sweep(tmp_path_factory.mktemp("sweep"))


def test_the_table_names_configurations_and_only_options_that_differ(swept: list[Path]) -> None:
    table = runs.runs_table(swept)
    seeds = table.groupby("label")["seed"].agg(sorted).to_dict()
    assert seeds == {
        "fp32": [0, 1, 2],
        "nf4": [0, 1, 2, 2],
        "fedavg, nf4, clients_per_round=2": [0, 1, 2],
        "sign": [0, 1],
    }
    options = [
        c for c in table.columns if c in (*table.columns[table.columns.get_loc("epsilon") :],)
    ]
    assert set(options[1:]) == {
        "codec.reference", "codec.down", "codec.up", "clients_per_round", "strategy.inner",
        "strategy.sampler",
    }  # fmt: skip
    for option in options[1:]:
        assert table[option].nunique() > 1
    assert table["status"].value_counts().to_dict() == {
        "completed": 10, "failed": 1, UNFINISHED: 1
    }  # fmt: skip


def test_a_csv_of_the_table_is_read_back_with_pandas_in_one_line(swept, tmp_path: Path) -> None:
    table = runs.runs_table(swept)
    table.to_csv(tmp_path / "results.csv", index=False)
    again = pd.read_csv(tmp_path / "results.csv")
    assert list(again.columns) == list(table.columns)
    assert again["bytes_total"].tolist() == table["bytes_total"].tolist()
    assert again["label"].tolist() == table["label"].tolist()


def older(folder: Path) -> None:
    """Take away what runs of older versions did not write."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for group_, key in (("output", "convention"), ("model", "tokenizer")):
        config[group_].pop(key, None)
    for key in ("privacy", "task", "gradient_accumulation"):
        config.pop(key, None)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("privacy", "log", "versions", "seconds", "trainable_scalars", "bits_per_scalar_up"):
        summary.pop(key)
    summary["bytes"].pop("total")
    (folder / "summary.json").write_text(json.dumps(summary))
    ledger = (folder / "ledger.csv").read_text().splitlines()
    lines = [line.rsplit(",", 4)[0] for line in ledger]
    (folder / "ledger.csv").write_text("\n".join(lines) + "\n")


def test_an_older_run_is_the_same_configuration_and_lacks_nothing_else(tmp_path: Path) -> None:
    folders = [finished(tmp_path / f"s{seed}", "codec=nf4", seed) for seed in range(2)]
    other = finished(tmp_path / "other", "codec=nf4 privacy=dp_sgd")
    before = runs.runs_table(folders)
    older(folders[0])
    after = runs.runs_table(folders)
    assert after["label"].nunique() == 1
    same = ["test_anls", "bytes_total", "bits_per_scalar_up", "rounds_to_target", "payload_up"]
    pd.testing.assert_frame_equal(before[same], after[same])
    assert runs.runs_table([*folders, other])["label"].nunique() == 2
    with pytest.raises(ValueError, match="competition_bytes"):
        read(folders[0]).ledger.sent(column="competition_bytes")


def test_a_run_that_goes_on_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", status=UNFINISHED)
    before = read(folder)
    for name in ("ledger.csv", "metrics.csv"):
        with (folder / name).open("a") as file:
            file.write("3,1")
    after = read(folder)
    assert after.metrics == before.metrics
    assert after.ledger.rows == before.ledger.rows
    assert after.status == UNFINISHED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: ["),
        ("summary.json", "{"),
        ("summary.json", "[" * 100_000),
        ("summary.json", "[[1, 2]]"),
        ("summary.json", '{"seconds": 3}'),
        ("summary.json", '{"status": ["completed"]}'),
        ("ledger.csv", "round\nx\n"),
        ("ledger.csv", "round,partition,direction,kind,message_bytes\n1,0,up,train,-5\n"),
        ("ledger.csv", f"round,partition,direction,kind\n{10**400},0,up,train\n"),
        ("ledger.csv", "round,partition,direction,kind,encode_s\n1,0,up,train,nan\n"),
        ("ledger.csv", f"round\n{'7' * 200_000}\n"),
        ("metrics.csv", "round,split,metric,value\n-1,test,anls,0.5\n"),
        ("metrics.csv", f"round,split,metric,value\n1,test,{'a' * 200_000},0.5\n"),
    ],
    ids=lambda x: x[:24],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = finished(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        read(folder)


@pytest.mark.parametrize("name", MOST)
def test_a_file_larger_than_any_run_leaves_is_not_read(tmp_path: Path, name: str) -> None:
    folder = finished(tmp_path / "run")
    with (folder / name).open("r+b") as file:
        file.truncate(MOST[name] + 1)  # of no blocks on the disk
    with pytest.raises(ValueError, match=f"{name} cannot be read: it has more than"):
        read(folder)


words = st.lists(
    st.sampled_from(
        [
            "codec=nf4",
            "codec=fp32",
            "optimizer.lr=1e-3",
            "optimizer.lr=1e-2",
            "rounds=2",
            "rounds=9",
        ]
    ),
    max_size=3,
    unique_by=lambda word: word.partition("=")[0],
)


@cache
def composed(overrides: str) -> dict:
    return plain(compose(overrides))


def made(number: int, overrides: list[str], seed: int, forgotten: set[str]) -> Run:
    config = composed(" ".join(sorted(overrides))) | {"seed": seed}
    config = {key: value for key, value in config.items() if key not in forgotten}
    summary = {"status": "completed", "overrides": " ".join([*overrides, f"seed={seed}"])}
    return Run(Path(f"runs/{number}"), config, summary, [], None)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(words, st.integers(0, 2), st.sets(st.sampled_from(["privacy", "task"]))),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_runs_are_grouped_by_what_was_configured(asked, data) -> None:
    found = [made(i, *one) for i, one in enumerate(asked)]
    groups = group(found)
    assert sorted(run.path for one in groups for run in one.runs) == sorted(r.path for r in found)
    labels = [one.label for one in groups]
    assert len(set(labels)) == len(labels)
    for one in groups:
        assert len({(compact(run.config["codec"]), run.config["rounds"]) for run in one.runs}) == 1
        assert differing(one.runs) == []
    shuffled = group(data.draw(st.permutations(found)))
    assert {frozenset(r.path for r in one.runs) for one in groups} == {
        frozenset(r.path for r in one.runs) for one in shuffled
    }
    assert {one.label for one in shuffled} == set(labels)


def test_a_nested_option_is_said_in_a_line() -> None:
    thin = plain(compose("codec=thin").codec.up)
    assert compact(thin).startswith("entropy(delta + uniform(error=")
    assert compact({"_target_": "flwr.serverapp.strategy.FedAvg"}) == "FedAvg"
    assert compact({"a": [1, None]}) == "(a=[1, None])"


@pytest.mark.parametrize("word", ["x" * 5000 + "=1", "a\0=1", "'", "=", "+/~=="])
def test_any_text_makes_a_label(word: str) -> None:
    runs_ = [made(0, [], 0, set()), made(1, [], 0, set())]
    runs_[0].summary["overrides"], runs_[1].config["rounds"] = word, 99
    assert len({one.label for one in group(runs_)}) == 2


def test_a_label_is_what_differs(tmp_path: Path) -> None:
    """Not an option that all share, typed or not, nor one that makes no other configuration."""

    def labels(*words: str) -> list[str]:
        at = tmp_path / str(len([*tmp_path.iterdir()]))
        return [one.label for one in group([read(finished(at / f"{i}", word))
                                            for i, word in enumerate(words)])]  # fmt: skip

    assert labels("local_epochs=2 rounds=3", "rounds=4 local_epochs=2") == ["rounds=3", "rounds=4"]
    assert labels("optimizer.lr=1e-3", "") == ["lr=1e-3", "lr=0.007"]
    assert labels("codec=nf4 federation.node_timeout=9", "codec=sign target.value=null") == [
        "nf4", "sign",
    ]  # fmt: skip
    assert labels("codec=nf4 local_epochs=12 optimizer=adamw", "codec=sign") == ["nf4", "sign"]
    assert labels("experiment=thin", "experiment=thin rounds=3")[1] == "rounds=3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data.train=/home/me/rows.csv rounds=1/2", "data.train=.../rows.csv rounds=1/2"),
        ("path: '/data'\nname: a/b", "path: '.../data'\nname: a/b"),
        ("[/a/b/c,/d/]", "[.../c,.../d/]"),
        ("https://huggingface.co/a/b ./here/x ../y ~/z", None),
        ("{a: /x/y}", "{a: .../y}"),
    ],
)
def test_of_a_place_on_this_machine_the_last_name_is_kept(text: str, said: str | None) -> None:
    assert without_places(text) == (text if said is None else said)


def test_runs_are_read_without_torch(swept: list[Path]) -> None:
    program = (
        "import sys; from pathlib import Path; from fl_app import runs; "
        "runs.runs_table(map(Path, sys.argv[1:])); assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, *map(str, swept)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
