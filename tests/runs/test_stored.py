"""What lies in a run's folder may be written by others: it is bounded, and only text."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from fl_app.config import ConfigError, compose, read_overrides, read_yaml
from fl_app.config.stored import LARGEST
from fl_app.runs import resume
from fl_app.runs.read import read
from fl_app.runs.resume import ResumeError, with_stored_overrides
from fl_app.runs.submission import RunError, _adapter_config
from tests import small
from tests.runs.test_resume import again, begun

LOLS = "a0: &a0 [lol]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n},' * 9}]\n" for n in range(9))
HOSTILE = {
    "aliases": (LOLS, "alias"),
    "an alias of itself": ("a: &a [*a]", "alias"),
    "merged aliases": ("a: &a {b: 1}\nc:\n  <<: *a", "alias"),
    "levels": ("[" * 50_000, "levels"),
    "levels of blocks": ("- " * 50_000, "levels"),
    "values": ("[" + "1," * 200_000 + "]", "values"),
    "bytes": ("a: " + "x" * LARGEST, "bytes"),
    "a python object": ("a: !!python/object/apply:os.system [id]", "cannot be read"),
    "a python name": ("a: !!python/name:os.system", "cannot be read"),
    "digits": ("a: " + "9" * 10_000, "cannot be read"),
    "a list": ("[1, 2]", "mapping"),
    "a text": ("abc", "mapping"),
    "half of it": ("a: {b: [", "cannot be read"),
    "two documents": ("a: 1\n---\nb: 2", "cannot be read"),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("runs"), rounds=1)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_configuration_is_refused_wherever_it_is_read(there: Path, kind: str) -> None:
    text, says = HOSTILE[kind]
    file = there / "config.yaml"
    before = file.read_bytes()
    file.write_text(text)
    try:
        with pytest.raises(ConfigError, match=says):
            read_yaml(file)
        with pytest.raises(ValueError, match=r"config\.yaml.*" + says):
            read(there)
        with pytest.raises(ResumeError, match=r"config\.yaml.*" + says):
            again(there)
    finally:
        file.write_bytes(before)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_yaml(tmp_path / "x")


@pytest.mark.parametrize("words", ["", "experiment=thin", "codec=uniform_entropy codec.error=3e-5"])
def test_what_a_run_writes_is_read_as_it_was(tmp_path: Path, words: str) -> None:
    path = begun(tmp_path, words=words)
    found = read_yaml(path / "config.yaml")
    cfg = compose(f"{small.DATA} rounds=4 {words} output.dir={tmp_path} output.name=run")
    assert json.dumps(found) == json.dumps({**found, **_plain(cfg)})


def _plain(cfg) -> dict:
    from fl_app.config import plain

    return plain(cfg)


@pytest.mark.parametrize(
    "written",
    [
        "model.path=${oc.env:HOME}", "hydra.searchpath=[pkg://x]", "x" * 40_000,
        "strategy.inner._target_=os.system", "experiment=../../x",
    ],
)  # fmt: skip
def test_the_overrides_of_a_folder_go_through_the_same_wall(there: Path, written: str) -> None:
    file = there / "overrides.txt"
    before = file.read_bytes()
    file.write_text(written)
    try:
        with pytest.raises(ConfigError):
            compose(with_stored_overrides(f"resume={there}"))
    finally:
        file.write_bytes(before)
    assert read_overrides(file) == before.decode().strip()


# ---- the checkpoint's header ---------------------------------------------------------------------


def nested(depth: int) -> str:
    return '{"list": [' * depth + "]}" * depth


def without(name: str):
    kept = {
        "round": 1, "seconds": 0.5, "evaluate_seconds": 0.1, "transfers": 0, "metrics": [],
        "resumed": [],
    }  # fmt: skip
    return folder_state({key: value for key, value in kept.items() if key != name})


def folder_state(kept: dict) -> str:
    def as_saved(value):
        if isinstance(value, dict):
            return {"dict": [[key, as_saved(part)] for key, part in value.items()]}
        return {"list": [*map(as_saved, value)]} if isinstance(value, list) else value

    return json.dumps(as_saved({"folder": kept, "strategy": {}}))


HEADERS = {
    "nothing": None, "empty": "", "no mapping": "3", "a list": '{"list": []}', "null": "null",
    "nested": nested(100_000), "nested less": nested(900), "cut off": '{"dict": [["folder", {"di',
    "of two kinds": '{"dict": [], "list": []}', "of no kind": "{}", "unknown": '{"set": 3}',
    "no folder": '{"dict": []}', "an array that is not there": '{"array": "state/9"}',
    "a frame elsewhere": '{"dict": [["a", {"frame": "../../../../etc/passwd"}]]}',
    "a number of pairs": '{"dict": 3}', "pairs of three": '{"dict": [[1, 2, 3]]}',
    "keys that are mappings": '{"dict": [[{"a": 1}, 2]]}', "a folder of 3": folder_state(3),
    **{f"without {name}": without(name) for name in resume.FOLDER_STATE},
    "a round in words": without("").replace('"round", 1', '"round", "one"'),
    "metrics of numbers": without("").replace(
        '"metrics", {"list": []}', '"metrics", {"list": [1]}'
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_is_not_a_runs_ends_in_one_line(there: Path, kind: str) -> None:
    (file,) = (there / "checkpoints").glob("round-*")
    before = file.read_bytes()
    header = HEADERS[kind]
    save_file({}, file, {"version": "1", **({} if header is None else {"thinwire": header})})
    try:
        with pytest.raises(ResumeError, match="damaged or of another version"):
            again(there)
    finally:
        file.write_bytes(before)


def test_a_frame_that_was_changed_is_refused(tmp_path: Path) -> None:
    from fl_app.runs.checkpoint import CheckpointError, load, save

    save(tmp_path, 1, {}, {"frame": b"abc"})
    next((tmp_path / "frames").iterdir()).write_bytes(b"abd")
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize("said", ["", "[]", "{}", "3", "null", "[" * 100_000, '{"status": 3}'])
def test_a_summary_that_says_nothing_is_not_that_of_a_completed_run(tmp_path, said: str) -> None:
    (tmp_path / "summary.json").write_text(said)
    assert not resume.is_complete(tmp_path)


# ---- an adapter's own configuration -------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}}, {}, [], 3,
        {"peft_type": "LORA", "r": "x", "target_modules": 3, "lora_alpha": {}, "task_type": "evil"},
    ],
)  # fmt: skip
def test_an_adapter_of_another_kind_is_not_submitted(tmp_path: Path, said) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(RunError, match="adapter_config"):
        _adapter_config(tmp_path / "adapter_config.json")


def test_of_an_adapter_only_its_shape_is_taken(tmp_path: Path) -> None:
    said = {
        "peft_type": "LORA", "r": 2, "target_modules": ["q"], "megatron_config": {"a": 1},
        "megatron_core": "os", "auto_mapping": {"parent_library": "os"}, "revision": "x",
        "base_model_name_or_path": "evil/model",
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    found = _adapter_config(tmp_path / "adapter_config.json")
    assert (found.r, found.target_modules, found.megatron_config) == (2, {"q"}, None)
    assert (found.auto_mapping, found.base_model_name_or_path) == (None, None)
