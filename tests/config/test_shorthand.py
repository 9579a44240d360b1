"""Paths on the command line: written out, absolute, or refused with both readings."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fl_app.config import ConfigError, compose, identity
from fl_app.config.own import text_of, with_own, words_of
from fl_app.config.shorthand import expanded, literal, typed_out


@given(st.text(st.sampled_from("ab \\\"'[]{},=:#é/*.()~"), max_size=9))
def test_a_literal_is_read_back(text):
    assert OverridesParser.create().parse_override(f"a={literal(text)}").value() == text


def test_paths_are_written_out(tmp_path: Path):
    (tmp_path / "my 'model").mkdir()
    (tmp_path / "rows.csv").write_text("a\n1\n")
    words = expanded(["model=./my 'model", "data=rows.csv", "rounds=2"], tmp_path)
    assert words[0] == "model=huggingface"
    assert words[2] == "data=table"
    assert words[4] == "rounds=2"
    cfg = compose(words)
    assert cfg.model.path == str(tmp_path / "my 'model")
    assert cfg.data.train.path == str(tmp_path / "rows.csv")
    assert expanded(words, Path("/")) == words  # once is enough
    assert typed_out(shlex.join(words), Path("/")) == shlex.join(words)


def test_an_option_and_an_id_of_the_hub_stay(tmp_path: Path):
    words = ["model=vt5-tiny", "data=docvqa_mini", "+sweep=codecs", "seed=0,1"]
    assert expanded(words, tmp_path) == words
    assert expanded(["model=org/name"], tmp_path) == ["model=huggingface", 'model.path="org/name"']
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert expanded(["model=org/name"], tmp_path)[1] == f'model.path="{tmp_path}/org/name"'


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model=./none", "there is no folder"),
        ("data=none.csv", "there is no file or folder"),
        ("data=/none/rows", "there is no file or folder /none/rows"),
        ("model=vt5-tny", r"neither an option nor a path.*\./vt5-tny.*Did you mean 'vt5-tiny'"),
        ("data=notes", r"neither an option nor a path.*ending such as \.csv"),
    ],
)
def test_what_is_neither_is_refused_with_both_readings(word, says, tmp_path: Path):
    with pytest.raises(ConfigError, match=says):
        expanded([word], tmp_path)


def test_a_sweep_may_have_several_paths(tmp_path: Path):
    for name in ("a.csv", "b.csv", "c,d.csv"):
        (tmp_path / name).touch()
    assert expanded(["data=a.csv,./b.csv"], tmp_path) == [
        "data=table", f'data.train.path="{tmp_path}/a.csv","{tmp_path}/b.csv"',
    ]  # fmt: skip
    assert expanded(["data=c,d.csv"], tmp_path)[1] == f'data.train.path="{tmp_path}/c,d.csv"'
    with pytest.raises(ConfigError, match="options alone, or of paths alone"):
        expanded(["data=a.csv,snli"], tmp_path)


def test_a_runs_own_words_may_have_absolute_paths():
    short = "model=org/name data=/a.csv data.test.path=/b.csv"
    long = "model=huggingface model.path=org/name data=table data.train.path=/a.csv"
    assert compose(short) == compose(f"{long} data.test.path=/b.csv")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data=./a.csv", "write the absolute path, data=/.../a.csv"),
        ("data=/a.csv", "the test rows cannot be read here"),
        (
            "data=/a.csv task=sequence_classification data.test.path=/b.csv",
            "give task.texts=[text] task.label=label task.labels=[no,yes]",
        ),
        ("data=/a.csv data.client=w data.test.share=0.1", "give federation.clients=3"),
    ],
)
def test_where_a_run_has_no_data_it_has_to_be_said(words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        compose(words)


# --- experiments of one's own ---------------------------------------------------------------------

WORDS = [
    "experiment=thin", "codec=nf4", "rounds=3", "optimizer.lr=1e-3", "adapter.target_modules=[q,v]",
    "data.partitioner={id: by_column, column: provider}", "target.value=null", 'output.name="a b"',
]  # fmt: skip


def test_an_experiments_file_says_what_the_overrides_say(tmp_path: Path):
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text_of(WORDS))
    assert yaml.safe_load(path.read_text())["defaults"] == ["thin", {"override /codec": "nf4"}]
    assert identity(compose(words_of(path))) == identity(compose(WORDS))
    words = with_own(["experiment=mine", "rounds=5"], tmp_path)
    assert compose(words).rounds == 5  # what is typed counts
    assert with_own(["experiment=thin"], tmp_path) == ["experiment=thin"]
    with pytest.raises(ConfigError, match=r"experiment=min is not in .*Did you mean 'mine'"):
        with_own(["experiment=min"], tmp_path)
    path.rename(path.with_name("thin.yaml"))
    with pytest.raises(ConfigError, match="in the project: rename yours"):
        with_own(["experiment=thin"], tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strategy: {inner: {_target_: os.system}}", "not a Flower strategy"),
        ("hydra: {run: {dir: /tmp}}", "cannot set options of Hydra"),
        ("rounds: ${oc.env:HOME}", "interpolation|resolver"),
        ("defaults: [{a: b, c: d}]", "name of an experiment, or a group"),
        ("defaults: nf4", "should be a list"),
        ("- a", "should hold a mapping"),
        ("a: !!python/object:os.system {}", "cannot be read"),
    ],
)
def test_such_a_file_is_data(text, says, tmp_path: Path):
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        compose(with_own(["experiment=mine"], tmp_path))
