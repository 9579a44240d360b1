"""A node's policy: how its file is read, and which places a run may name by any key of conf/."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fl_app.client import places
from fl_app.client.policy import MOST_BYTES, Models, Policy, PolicyError, RefusedError, Rows, read
from fl_app.config import CONF_DIR, SPLITS

STRICT = Path(__file__).resolve().parents[2] / "deploy" / "policy.yaml"
ALL_HUB = ("*", "*/*")
OPEN = Policy(models=Models(hub=ALL_HUB), rows=Rows(hub=ALL_HUB))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


# ---- the file -----------------------------------------------------------------------------------


def _same_keys(values: Any, policy: Any) -> bool:
    known = [one for one in fields(policy) if one.compare]
    return [*values] == [one.name for one in known] and all(
        _same_keys(values[one.name], getattr(policy, one.name))
        for one in known
        if is_dataclass(getattr(policy, one.name))
    )


def test_the_file_in_deploy_is_the_strict_policy_with_every_key() -> None:
    assert read(STRICT) == Policy()
    assert _same_keys(yaml.safe_load(STRICT.read_text()), Policy())


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "policy.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def test_what_a_file_leaves_out_is_strict(folder: Path) -> None:
    assert read(written(folder, "")) == Policy()
    policy = read(written(folder, "run: {rounds: 3}\nmodels: {folders: [/srv/models]}"))
    assert (policy.run.rounds, policy.models.folders) == (3, ("/srv/models",))
    assert (policy.run.local_epochs, policy.rows) == (Policy().run.local_epochs, Policy().rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs: {}", "runs is no key; known here: models, rows, run, privacy, secure_sum"),
        ("run: {round: 3}", "run.round is no key; known here: tasks, adapters"),
        ("digest: strict", "digest is no key"),
        ("[1]", "the file should be a mapping"),
        ("run: 3", "run should be a mapping"),
        ("run: {rounds: many}", "run.rounds='many' should be null or a whole number"),
        ("run: {rounds: true}", "run.rounds=True should be null or a whole number"),
        ("run: {rounds: -1}", "run.rounds=-1 should be null or a whole number of at least 0"),
        ("run: {tasks: docvqa}", "run.tasks='docvqa' should be all or a list of names"),
        ("rows: {least: null}", "rows.least=None should be a whole number of at least 0"),
        ("rows: {folders: /srv}", "rows.folders='/srv' should be a list of absolute paths"),
        ("rows: {folders: [srv]}", "should be a list of absolute paths"),
        ("rows: {folders: [/srv/../etc]}", "should be a list of absolute paths"),
        ("models: {hub: ['a/b/c']}", "should be a list of hub ids"),
        ("privacy: {required: yes}", "privacy.required=True should be none or dp_sgd"),
        ("privacy: {delta: 1}", "privacy.delta=1 should be null or a number in (0, 1)"),
        ("privacy: {epsilon: .nan}", "privacy.epsilon=nan should be null or a number"),
        ("run: {rounds: 1, rounds: 9}", "line 1: 'rounds' is there twice"),
        ("rows: &x {least: 1}\nrun: *x", "line 1: anchors and aliases are not read"),
        ("rows: !!python/name:os.system x", "line 1: could not determine a constructor"),
        ("run: {rounds: 2001-99-99}", "month must be in 1..12"),
        ("run: [", "line 1: "),
        (b"\xff\xfe\x00", "it is no YAML"),
        ("[" * 5000, "it is no YAML: RecursionError"),
        ("#" * (MOST_BYTES + 1), f"it is longer than {MOST_BYTES} bytes"),
    ],
)
def test_what_a_file_gets_wrong_is_said_in_one_line(text, says: str, folder: Path) -> None:
    path = written(folder, text)
    with pytest.raises(PolicyError, match=re.escape(says)) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_others_may_change_or_that_is_not_there_is_refused(folder: Path) -> None:
    path = written(folder, "")
    path.chmod(0o602)
    with pytest.raises(PolicyError, match="chmod o-w"):
        read(path)
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        read(folder / "nothing")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        read(folder)
    with pytest.raises(PolicyError, match="absolute"):
        read(Path("policy.yaml"))


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(
            st.sampled_from(["run", "rows", "least", "rounds", "hub", "privacy"]) | st.text(), some
        )
    ),
    max_leaves=8,
)


@given(YAML.map(lambda value: yaml.safe_dump(value).encode()) | st.binary())
def test_any_file_is_a_policy_or_a_policy_error(folder: Path, data: bytes) -> None:
    with suppress(PolicyError):
        assert isinstance(read(written(folder, data)), Policy)


# ---- places -------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "file", "..", "."])
PATHS = st.lists(NAMES, max_size=5).map("/".join)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files, with links from one to the other."""
    top = tmp_path_factory.mktemp("tree")
    for name in ("a/b", "a/c", "b/a"):
        (top / name).mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file", "b/file"):
        (top / name).write_text(name)
    (top / "a" / "a").symlink_to(top / "b")  # out of a
    (top / "c").symlink_to(top / "a")  # into a
    (top / "b" / "b").symlink_to("../a/b/file")
    (top / "b" / "c").symlink_to("c")  # nowhere: a loop
    return top


@given(PATHS, st.lists(PATHS, min_size=1, max_size=2))
def test_a_path_is_allowed_if_what_would_be_opened_lies_in_a_folder(tree, path, allowed) -> None:
    named, folders = tree / path, [str(tree / one) for one in allowed]
    allowed_here = places.is_in(f"{tree}/{path}", folders)
    if ".." in path.split("/"):
        assert not allowed_here
        return
    try:
        descriptor = os.open(named, os.O_RDONLY)
    except OSError:
        return  # nothing can be read there
    opened = str(Path(f"/proc/self/fd/{descriptor}").readlink())  # as the kernel has it
    os.close(descriptor)
    real = [os.path.realpath(one) for one in folders]
    assert allowed_here == any(opened == one or opened.startswith(f"{one}/") for one in real)


@pytest.mark.parametrize("path", ["/srv/x\0", "/srv/../etc/passwd", "/srvx", "/"])
def test_a_path_that_only_begins_like_a_folder_is_not_in_it(path: str) -> None:
    assert not places.is_in(path, ["/srv"])
    assert places.is_in("/srv/x", ["/srv"])
    assert not places.is_in("/srv/x", [])


ids = st.from_regex(r"[a-c._-]{1,3}(/[a-c._-]{1,3})?", fullmatch=True)


@given(ids)
def test_a_hub_id_fits_a_pattern_part_by_part(value: str) -> None:
    is_id = bool(places.HUB_ID.fullmatch(value)) and not os.path.lexists(value)
    assert places.is_hub_id(value, ["*/*"]) == (is_id and "/" in value)
    assert places.is_hub_id(value, ["*"]) == (is_id and "/" not in value)
    assert places.is_hub_id(value, [value]) == is_id
    assert not places.is_hub_id(value, [f"{value}x"])


def test_a_hub_id_that_is_also_a_folder_here_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.is_hub_id("org/model", ["org/*"])
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not places.is_hub_id("org/model", ["org/*"])


@pytest.mark.parametrize(
    "value",
    [
        "embedded:../../etc", "embedded:a/b", "embedded:", "org/model", "/srv/models", "models",
        "../x", "~/x", "./x", "file:///etc/passwd", "https://example.org/x", "", 3, ["/x"],
        {"path": "/x"}, "org/model\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", [*places.MODELS, *places.ROWS])
def test_the_strict_policy_lets_a_run_name_nothing_of_the_node(key: str, value: object) -> None:
    with pytest.raises(RefusedError, match=r"by its rule (models|rows)"):
        places.check(nested(key, value), Policy(), reads_rows=True)


def test_embedded_and_random_models_are_always_allowed() -> None:
    for value in ("embedded:vt5_tiny", "embedded:llama_tiny", "random", None):
        places.check(nested("model.path", value), Policy(), reads_rows=True)


def test_a_node_with_rows_of_its_own_does_not_care_where_the_servers_are() -> None:
    config = nested("data.test.path", "/only/on/the/server.jsonl")
    places.check(config, Policy(), reads_rows=False)
    with pytest.raises(RefusedError, match=r"data\.test\.path, by its rule rows\.folders"):
        places.check(config, Policy(), reads_rows=True)


# ---- no key of conf/ is left out ----------------------------------------------------------------


def nested(key: str, value: object) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)  # type: ignore[call-overload]


def _conf() -> Iterator[tuple[str, object]]:
    """Every key of every file in conf/ that is a text, or may be one, and its value there."""
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        group = path.parent.relative_to(CONF_DIR).as_posix()
        if group == "sweep" or path.name == "multirun.yaml":
            continue  # only of who starts many runs
        prefix = "" if group in (".", "experiment") else f"{group}."
        values = yaml.safe_load(path.read_text()) or {}
        for key, value in places.leaves(values):
            if isinstance(value, str | None) and not key.startswith("defaults"):
                yield f"{prefix}{key}", value


CONF = sorted({*_conf()}, key=str)


def test_conf_is_looked_through() -> None:
    keys = {key for key, _ in CONF}
    assert len(keys) > 100
    assert {*places.MODELS, *places.ROWS, "output.dir", "logger.mlflow.tracking_uri"} <= keys


@pytest.mark.parametrize("value", ["/etc/hostname", "~/x", "a/b"])
def test_a_key_of_conf_that_names_a_file_is_refused_unless_it_is_nothing_to_a_node(value) -> None:
    let_through = set()
    for key, _ in CONF:
        try:
            places.check(nested(key, value), Policy(), reads_rows=True)
        except RefusedError:
            continue
        let_through.add(key)
    assert all(any(f"{key}.".startswith(f"{one}.") for one in places.TEXT) for key in let_through)
    assert not let_through & {*places.MODELS, *places.ROWS}
    assert "task.prompt" in let_through


def test_a_key_of_conf_that_is_called_a_path_is_one_that_is_known() -> None:
    called = {key for key, _ in CONF if places.looks_like_a_place(key, "x")}
    assert called >= {*places.MODELS, *places.ROWS}
    text = {key for key in called if any(f"{key}.".startswith(f"{one}.") for one in places.TEXT)}
    assert called - text == {*places.MODELS, *places.ROWS}
    assert text == {"output.dir", "logger.mlflow.tracking_uri"}


# Texts of conf/ that name neither a file nor an id: choices, and what another key says. A bare
# hub id ("gpt2") has no look, so a new key has to be judged by whoever adds it: here, or in places.
PLAIN = {
    "augment": {"id"},
    "link": {"down.burst", "down.rate", "id", "up.burst", "up.rate"},
    "model": {
        "config.prompt", "config.quecc.kernel", "config.spatial", "dtype", "head", "quantization",
        "recipe", "sha256",
    },
    "data": {
        "client", "clients", "id", "sample_by", "target", "test.share", "validation.share",
        *(f"{split}.{key}" for split in SPLITS for key in ("limit", "name", "split")),
    },
    "adapter": {
        "alpha", "depth", "eta", "fisher", "grid.scale_types.0", "id", "init", "method",
        "recipe.pretrained.lr", "setup", "width",
    },
    "federation": {"clients_per_node", "device", "max_examples", "max_update_rms", "sampling"},
    "optimizer": {"exponent", "graft", "id", "lr", "schedule"},
    "privacy": {"delta", "id", "noise", "noise_multiplier"},
    "target": {"metric", "value"},
}  # fmt: skip


def test_every_text_in_conf_has_been_judged() -> None:
    judged = {*places.MODELS, *places.ROWS}
    judged |= {f"{group}.{key}" for group, keys in PLAIN.items() for key in keys}
    text = (*places.TEXT, "codec", "strategy")  # built from what is registered, by id
    left = {key for key, _ in CONF if not any(f"{key}.".startswith(f"{one}.") for one in text)}
    assert left == judged


def test_no_value_in_conf_is_taken_for_a_place_that_is_none() -> None:
    for key, value in CONF:
        places.check(nested(key, value), OPEN, reads_rows=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.config.backbone", "org/backbone"),
        ("model.config.text_config.attn_implementation", "org/kernel:x"),
        ("model.config.vocab_file", "vocab"),
        ("codec.up.inner.table_path", "x"),
        ("strategy.inner.files", ["x", "y"]),
        ("data.train.name", "../../x"),
        ("data.train.data_dir", "x"),
    ],
)
def test_a_key_that_nobody_foresaw_is_refused_by_its_name_or_look(key: str, value: object) -> None:
    with pytest.raises(RefusedError, match=re.escape(key)):
        places.check(nested(key, value), OPEN, reads_rows=True)
